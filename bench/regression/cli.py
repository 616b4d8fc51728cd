"""The command `regress` of `python -m bench`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.options import MEASURED, Measured, Names, Texts, pairs
from bench.quiet import quiet_libraries

REGRESS_EXAMPLES = """examples:
  python -m bench regress --baseline reports/data/regression        against the committed baseline of this device
  python -m bench regress --update --reason "faster solver"         make this commit's figures the baseline
  python -m bench regress --checks quality,cost                     nothing that depends on the device
  python -m bench regress --model ./my-pruned --baseline my.json    your own pruned model against your own baseline
Ends with 0 when every check was taken and none is worse, with 1 otherwise: what was worse, or what kept it from a
verdict, stands on the terminal, in the summary and in the JUnit XML."""


def regress(
    *,
    measured: Measured = MEASURED,
    variants: Names = None,
    model: Texts = (),
    baseline: Path | None = None,
    update: bool = False,
    reason: str = "",
    checks: Names = None,
    tolerance: Texts = (),
    limit: int = 16,
    rounds: int = 60,
    force: bool = False,
    require_idle: bool = False,
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None,
    summary: Path | None = None,
    junit: Path | None = None,
) -> int:
    """Measure a small suite and compare it with a baseline.

    Prune, draw, score and time a small fixed suite, and compare it with a baseline: quality paired by prompt and seed,
    latency as the ratio to dense of one interleaved run, FLOPs and parameters exactly, peak memory, checkpoint size,
    and hashes of pictures. Pruned models are kept until something that they come from changes. The run leaves
    summary.md, junit.xml, run.json and a line in history.jsonl.

    Args:
        variants: variants to prune and compare, comma-separated; default: fastflux-10,fastflux-20,l1-21
        model: [NAME=]DIR, a pruned transformer or exported pipeline of your own instead of variants; may be repeated
        baseline: a file, or a folder of <device>/<profile>.json; default: runs/regress/baselines
        update: write this run as the baseline; needs --reason
        reason: why the baseline changes, kept in it
        checks: of quality, latency, cost, render, comma-separated; default: all, render on a CPU only
        tolerance: NAME=VALUE, another tolerance such as hps=0.3 (a difference) or latency=0.1 (a fraction)
        limit: prompts of each style and task
        rounds: timed rounds, up to four times as many where that leaves something open
        force: prune again what is kept of earlier runs
        require_idle: refuse to measure while other work runs
        out: where all goes; default: runs/regress/<profile>
        summary: the Markdown summary; default: OUT/summary.md
        junit: the JUnit XML; default: OUT/junit.xml
    """
    quiet_libraries()
    from bench.regression.check import tolerances
    from bench.regression.inputs import Suite, named_models
    from bench.regression.run import Options
    from bench.regression.run import regress as run_checks

    suite = Suite.of(measured.profile, variants, named_models(model), limit=limit, rounds=rounds)
    options = Options(
        suite=suite,
        baseline=baseline,
        kinds=checks or (),
        tolerances=tolerances(pairs(tolerance)),
        update=update,
        reason=reason.strip(),
        force=force,
        require_idle=require_idle,
        out=out,
        summary=summary,
        junit=junit,
        device=measured.device,
        changes=pairs(measured.changes),
    )
    return run_checks(options)
