"""What every command does before its work, and every worker."""

import logging
import os
import warnings

from fastflux.threads import use_threads


def quiet_libraries() -> None:
    """What every command does first: one thread, and no third-party chatter, which would bury our own messages.

    With one thread, results are the same to the bit on any number of cores, and other work on the machine delays a run
    by its share only.
    """
    use_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|torch|huggingface_hub|open_clip|timm)")
    logging.disable(logging.WARNING)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
