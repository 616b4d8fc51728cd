"""The command lines of `python -m bench regress` and `python -m bench history`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.arguments import add_set, change, names
from bench.regression.baseline import KINDS
from bench.regression.exit import exit_codes
from bench.tables import TRENDS

_EXAMPLES = """examples:
  python -m bench regress                                          against the committed baseline of this device
  python -m bench regress --update --reason "faster solver"         make this commit's figures the baseline
  python -m bench regress --checks quality,cost                    nothing that depends on the device
  python -m bench regress --model ./my-pruned --baseline my.json    your own pruned model against your own baseline
  python -m bench regress --repeat 20                              without a change: how often is there an alarm?
"""


def add_regress(commands: Any) -> None:
    """Add `regress`."""
    parser = commands.add_parser(
        "regress",
        help="measure a small suite and compare it with a baseline",
        description="Prune, draw, score and time a small fixed suite, and compare it with a baseline: quality paired "
        "by prompt and seed, latency as the ratio to dense of one interleaved run, FLOPs and parameters exactly, peak "
        "memory, checkpoint size, and hashes of pictures. Pruned models are kept until something that they come from "
        "changes. The run leaves summary.md, junit.xml, run.json and a line in history.jsonl.",
        epilog=f"{_EXAMPLES}\nexit codes:\n{exit_codes()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", default="shapes", help="bench/profiles/<name>.toml (default: %(default)s)")
    parser.add_argument(
        "--variants", type=names, metavar="A,B", help="variants to prune and compare (default: those of the suite)"
    )
    parser.add_argument(
        "--model", type=_model, action="append", default=[], metavar="[NAME=]DIR",
        help="a pruned transformer or an exported pipeline of your own, instead of variants; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--baseline", type=Path, metavar="PATH",
        help="a file, or a folder of <device>/<profile>.json (default: reports/data/regression; needed with --model)",
    )  # fmt: skip
    parser.add_argument("--update", action="store_true", help="write this run as the baseline; needs --reason")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why the baseline changes, kept in it")
    parser.add_argument(
        "--checks",
        type=names,
        default=[],
        metavar="A,B",
        help=f"of {', '.join(KINDS)} (default: all; render on a CPU only)",
    )
    parser.add_argument(
        "--tolerance", type=change, action="append", default=[], metavar="NAME=VALUE",
        help="another tolerance, such as hps=0.3 (a difference) or latency=0.1 (a fraction)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=16, help="prompts of each style and task (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=60, help="timed rounds, up to four times as many where that "
                        "leaves something open (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="run N times and tell how the figures scatter"
    )
    parser.add_argument("--force", action="store_true", help="prune again what is kept of earlier runs")
    parser.add_argument("--require-idle", action="store_true", help="refuse to measure while other work runs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where all goes (default: runs/regress/<profile>)")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="the Markdown summary (default: OUT/summary.md)")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="the JUnit XML (default: OUT/junit.xml)")
    add_set(parser)
    parser.add_argument("--device", help="torch device (default: the profile's)")
    parser.set_defaults(parser=parser)


def add_history(commands: Any) -> None:
    """Add `history`."""
    parser = commands.add_parser(
        "history",
        help="the trend of a metric over commits",
        description="Show what regression runs and committed records measured, commit by commit, and draw it.",
        epilog="examples:\n"
        "  python -m bench history --metric hps\n"
        "  python -m bench history --metric latency -o latency.svg\n"
        "  python -m bench history --import                    add the committed records of past commits, from git",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--metric", default="hps", help=f"{', '.join(TRENDS)} (default: %(default)s)")
    parser.add_argument("--profile", default="shapes", help="(default: %(default)s)")
    parser.add_argument("--import", dest="imported", action="store_true", help="first add records of past commits")
    parser.add_argument(
        "--file", type=Path, action="append", metavar="FILE",
        help="history file; may be given again (default: the committed one and runs/regress/<profile>/history.jsonl)",
    )  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="the drawing, .png or .svg "
                        "(default: runs/regress/<profile>/history-<metric>.png)")  # fmt: skip


def run_regress(options: argparse.Namespace) -> int:
    """Check what argparse cannot, and run; ends with argparse's code 2 for a command line that makes no sense."""
    from bench.regression.check import Tolerances
    from bench.regression.inputs import VARIANTS, Suite
    from bench.regression.run import BASELINES, Options, regress

    refuse = options.parser.error
    if options.update and not options.reason.strip():
        refuse("--update needs --reason TEXT: a baseline says why it was made")
    if options.model and options.baseline is None:
        refuse("--model needs --baseline FILE: the committed baselines hold no model of yours")
    if options.model and options.variants:
        refuse("give --model or --variants, not both")
    if min(options.repeat, options.rounds, options.limit) < 1:
        refuse("--repeat, --rounds and --limit are at least 1")
    if unknown := [kind for kind in options.checks if kind not in KINDS]:
        refuse(f"there is no kind of checks {unknown[0]!r}: choose of {', '.join(KINDS)}")
    if len({name for name, _ in options.model}) < len(options.model) or "dense" in dict(options.model):
        refuse("models need names of their own: give --model NAME=DIR, and another name than dense")
    known = {entry.name for entry in fields(Tolerances)}
    tolerances = {}
    for name, text in options.tolerance:
        try:
            tolerances[name] = float(text)
        except ValueError:
            refuse(f"--tolerance {name}={text}: {text!r} is no number")
        if name not in known or not tolerances[name] >= 0:
            refuse(f"--tolerance {name}={text}: give one of {', '.join(sorted(known))} a number that is not negative")
    suite = Suite(
        profile=options.profile,
        variants=tuple(options.variants or VARIANTS),
        models=dict(options.model),
        limit=options.limit,
        rounds=options.rounds,
        most_rounds=4 * options.rounds,
    )
    return regress(
        Options(
            suite=suite,
            baseline=options.baseline or BASELINES,
            kinds=tuple(options.checks),
            tolerances=Tolerances(**tolerances),
            update=options.update,
            reason=options.reason.strip(),
            repeat=options.repeat,
            force=options.force,
            require_idle=options.require_idle,
            out=options.out,
            summary=options.summary,
            junit=options.junit,
            device=options.device,
            changes=dict(options.set),
        )
    )


def run_history(options: argparse.Namespace) -> int:
    """Show and draw the trend."""
    from bench.regression.git_history import history

    history(
        metric=options.metric, profile=options.profile, imported=options.imported, files=options.file, out=options.out
    )
    return 0


def _model(text: str) -> tuple[str, Path]:
    """NAME=DIR, or a folder that gives its own name."""
    name, equals, folder = text.partition("=")
    if not equals:
        name, folder = Path(text).resolve().name, text
    if not name or not folder or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise argparse.ArgumentTypeError(f"{text!r} is no [NAME=]DIR with a name of letters, digits, '-', '_' and '.'")
    return name, Path(folder)
