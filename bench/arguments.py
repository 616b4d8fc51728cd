"""What options of several commands are read by."""

from __future__ import annotations

import argparse


def names(text: str) -> list[str]:
    """Names, comma-separated."""
    return [name.strip() for name in text.split(",") if name.strip()]


def change(text: str) -> tuple[str, str]:
    """KEY=VALUE; raises ArgumentTypeError for anything else."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    return key, value


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add --set KEY=VALUE, which changes a setting of the profile."""
    parser.add_argument(
        "--set",
        type=change,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value for a setting of the profile, such as pipeline=/models/FLUX.1-dev or sampling.steps=20",
    )
