"""Pipelines by their Hugging Face hub id: fetched once, then a local folder like any other."""

from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # imported there, without an __all__

from fastflux.errors import FastFluxError, first_sentence


def is_hub_id(text: str) -> bool:
    """Whether the text can name a model on the hub: an owner and a name; a folder's bare name is none."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def local_pipeline(folder: Path) -> Path:
    """The folder itself if there is one; else, if it reads as a hub id, what diffusers fetches or has in its cache.

    Raises ``FastFluxError`` when there is neither, saying what to do.
    """
    if folder.is_file():
        raise FastFluxError(
            f"{folder} is a single file: give the folder or hub id of the pipeline that it belongs to, and the file "
            "with --checkpoint."
        )
    if folder.exists():
        return folder
    name = folder.as_posix()
    if not is_hub_id(name):
        raise FastFluxError(f"There is no folder {folder}, and it is no hub id such as black-forest-labs/FLUX.1-dev.")
    try:
        return Path(DiffusionPipeline.download(name))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FastFluxError(
            f"There is no folder {folder}, and the hub does not give it ({first_sentence(error)}): check the name, "
            "accept the model's licence on its page, log in with `hf auth login`, or give a local folder."
        ) from error
