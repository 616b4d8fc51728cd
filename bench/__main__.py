"""Command line of the evaluation suite: `python -m bench --help`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.command_line import parser
from bench.progress import console
from bench.regression.command import run_history, run_regress
from fastflux.errors import FastFluxError

if TYPE_CHECKING:
    import argparse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, or 1 after an error told in one sentence; `regress` and `full_size` have more codes."""
    options = parser().parse_args(arguments)
    _quiet_libraries()
    try:
        return _COMMANDS[options.command](options) or 0
    except FastFluxError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 1
    except OSError as error:
        console.print(f"error: {error}; what is done is kept, the same command continues", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; what is done is kept, the same command continues")
        return 130


def _reproduce(options: argparse.Namespace) -> None:
    from bench.reproduce import reproduce
    from bench.tables import TABLES

    reproduce(
        profile_name=options.profile,
        tables=tuple(TABLES) if options.only is None else options.only,
        variant_names=options.variants,
        limit=options.limit,
        seeds=options.seeds,
        force=options.force,
        accept=options.accept,
        ranked_afresh=options.rank,
        dry_run=options.dry_run,
        device=options.device,
        changes=dict(options.set),
    )


def _draw(options: argparse.Namespace) -> None:
    from bench.run.external import draw

    manifest = draw(
        options.model,
        options.out,
        profile_name=options.profile,
        steps=options.steps,
        guidance=options.guidance,
        size=options.size,
        limit=options.limit,
        device=options.device,
        changes=dict(options.set),
    )
    console.print(f"the images are listed in {manifest}")


def _score(options: argparse.Namespace) -> None:
    from bench.run.external import score, shown

    record = score(
        options.images,
        options.name,
        label=options.label,
        profile_name=options.profile,
        metrics=options.metrics,
        device=options.device,
        changes=dict(options.set),
    )
    print(shown(record))


def _speed(options: argparse.Namespace) -> None:
    from bench.studies.speed import SpeedSettings, speed

    speed(
        profile_name=options.profile,
        variant_names=options.variants,
        settings=SpeedSettings(
            tuple(options.batches),
            options.compile,
            end_to_end=options.end_to_end,
            rounds=options.rounds,
            require_idle=options.require_idle,
        ),
        device=options.device,
        changes=dict(options.set),
    )


def _rank(options: argparse.Namespace) -> None:
    from bench.studies.ranking import rank

    rank(
        profile_name=options.profile,
        samples=options.samples,
        force=options.force,
        accept=options.accept,
        device=options.device,
        changes=dict(options.set),
    )


def _recollection(options: argparse.Namespace) -> None:
    from experiments.recollection import recollection

    recollection(
        profile_name=options.profile,
        blocks=options.blocks,
        samples=options.samples,
        keep=options.keep,
        activations=options.activations,
        accept=options.accept,
        device=options.device,
    )


def _full_size(options: argparse.Namespace) -> int:
    from bench.profiles.profile import ROOT
    from bench.studies.full_size.run import full_size

    return full_size(
        profile_name=options.profile,
        stages=options.stages,
        budget=options.budget,
        dry_run=options.dry_run,
        accept=options.accept,
        retry=options.retry,
        offload=options.offload,
        allow_busy=options.allow_busy,
        device=options.device,
        dtype=options.dtype,
        changes=dict(options.set),
        runs=options.out or ROOT / "runs",
    )


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int | None]] = {
    "reproduce": _reproduce,
    "rank": _rank,
    "recollection": _recollection,
    "draw": _draw,
    "score": _score,
    "speed": _speed,
    "regress": run_regress,
    "history": run_history,
    "full_size": _full_size,
}


def _quiet_libraries() -> None:
    """Third-party chatter (progress bars of loaders, advice to developers) would bury our own messages."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|torch|huggingface_hub|open_clip|timm)")
    logging.disable(logging.WARNING)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
