"""The command line of the evaluation suite: `python -m bench --help`."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, Token

from bench.progress import console
from bench.run.folders import RUNS
from fastflux.command_line import run
from fastflux.errors import FastFluxError

app = App(
    name="python -m bench",
    help="FastFLUX's evaluation suite.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    version_flags=[],
)


def _names(_type: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(name for token in tokens for part in token.value.split(",") if (name := part.strip()))


def _numbers(_type: object, tokens: Sequence[Token]) -> tuple[int, ...]:
    return tuple(int(name) for name in _names(_type, tokens))


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """What KEY=VALUE options say."""
    if wrong := [text for text in texts if not text.partition("=")[0] or "=" not in text]:
        raise FastFluxError(f"{wrong[0]!r} is no KEY=VALUE")
    return dict(text.split("=", 1) for text in texts)


_Names = Annotated[
    tuple[str, ...] | None, Parameter(converter=_names, n_tokens=1, accepts_keys=False, show_default=False)
]
_Numbers = Annotated[tuple[int, ...], Parameter(converter=_numbers, n_tokens=1, show_default=lambda found: found[0])]
_Texts = Annotated[tuple[str, ...], Parameter(show_default=False)]
_Set = Annotated[_Texts, Parameter(name="--set")]
_Out = Annotated[Path, Parameter(name=("--out", "-o"))]


@app.command(
    name="reproduce",
    help_epilogue="""examples:
  python -m bench reproduce
  python -m bench reproduce --only table6
  python -m bench reproduce --limit 4 --seeds 1      a quick look at the whole road
  python -m bench reproduce --dry-run                what it takes, without doing it
  python -m reports reproduce --accept               with tables and figures; make this run the committed one""",
)
def _reproduce(
    *,
    profile: str = "shapes",
    only: _Names = None,
    variants: _Names = None,
    limit: int | None = None,
    seeds: int | None = None,
    force: bool = False,
    rank: bool = False,
    dry_run: bool = False,
    changes: _Set = (),
    device: str | None = None,
    out: _Out = RUNS,
) -> int:
    """Prune, generate, score and measure all that the tables need.

    Measure every variant of a profile afresh into runs/<profile>/. What an earlier run measured with the same inputs is
    not measured again; a committed record never counts. Prints the path of run.json, which says where the records are.

    Args:
        profile: name of a profile, or a .toml
        only: tables, comma-separated, such as table1,table6; default: all
        variants: variants, comma-separated, such as fastflux-10,l1-12
        limit: only so many prompts of each style and task
        seeds: so many images of each prompt
        force: measure again what is there already
        rank: measure the order of blocks afresh first, instead of the profile's
        dry_run: check that everything is there, say what the run takes, and stop
        changes: another value for a setting of the profile, such as sampling.steps=20; may be given again
        device: torch device; default: the profile's
        out: folder of all runs
    """
    _quiet_libraries()
    from bench.profiles.profile import load_profile
    from bench.run.reproduce import NOTE, reproduce
    from bench.studies.ranking import RANK_SAMPLES
    from bench.studies.ranking import rank as measure_ranking
    from bench.tables import TABLES

    shared: dict[str, Any] = {"profile_name": profile, "device": device, "changes": _pairs(changes), "runs": out}
    if load_profile(profile, _pairs(changes)).random:  # no pictures to score: full_size measures all there is
        from bench.studies.full_size.run import full_size

        return full_size(dry_run=dry_run, **shared)
    finished = reproduce(
        tables=tuple(TABLES) if only is None else only,
        variant_names=variants,
        limit=limit,
        seeds=seeds,
        force=force,
        ranking=measure_ranking(samples=RANK_SAMPLES, **shared) if rank and not dry_run else None,
        dry_run=dry_run,
        **shared,
    )
    if finished is not None:
        print(finished.folder / NOTE)
    return 0


@app.command(
    name="rank",
    help_epilogue="""examples:
  python -m bench rank
  python -m bench rank --samples 4 --accept          make this order the one that the profile prunes in
  fastflux prune MODEL --ratio 0.1 --ranking bench/profiles/rankings/shapes.json --prompts prompts.txt -o OUT""",
)
def _rank(
    *,
    profile: str = "shapes",
    samples: int = 2,
    force: bool = False,
    accept: bool = False,
    changes: _Set = (),
    device: str | None = None,
    out: _Out = RUNS,
) -> None:
    """Measure the paper's importance of every block: FID and CLIP score without it.

    Draw the calibration prompts without each block in turn, score the images by FID (against the dense model's) and
    CLIP score, and order the blocks, least important first. An interrupted run goes on at its block. `python -m reports
    importance` draws what comes.

    Args:
        profile: name of a profile, or a .toml
        samples: images of each prompt
        force: measure again what is there already
        accept: copy the order to bench/profiles/rankings/
        changes: another value for a setting of the profile; may be given again
        device: torch device; default: the profile's
        out: folder of all runs
    """
    _quiet_libraries()
    from bench.studies.ranking import rank

    made = rank(profile_name=profile, samples=samples, force=force, accept=accept, device=device,
                changes=_pairs(changes), runs=out)  # fmt: skip
    console.print(f"the order is in {made}", markup=False, soft_wrap=True)


@app.command(
    name="draw",
    help_epilogue="""examples:
  python -m bench draw CompVis/stable-diffusion-v1-4 --profile flux-dev --steps 50 --guidance 7.5 --size 512 -o sd14
  python -m bench draw path/to/FastFLUX-20 -o images       one of your own, on the shapes profile's prompts""",
)
def _draw(
    model: str,
    /,
    *,
    profile: str = "shapes",
    steps: int | None = None,
    guidance: float | None = None,
    size: int | None = None,
    limit: int | None = None,
    changes: _Set = (),
    device: str | None = None,
    out: _Out,
) -> None:
    """Draw a profile's prompts with any diffusers pipeline.

    Of a pipeline that is not pruned here, such as Stable Diffusion v1.4, from the seeds that the profile's own variants
    get. `score` measures the images.

    Args:
        model: a pipeline's folder or hub id
        profile: name of a profile, or a .toml
        steps: sampling steps; default: the profile's
        guidance: guidance scale; default: the profile's
        size: height and width in pixels; default: the profile's
        limit: only so many prompts of each style and task
        changes: another value for a setting of the profile; may be given again
        device: torch device; default: the profile's
        out: folder of the images and their manifest
    """
    _quiet_libraries()
    from bench.run.external import draw

    manifest = draw(model, out, profile_name=profile, steps=steps, guidance=guidance, size=size, limit=limit,
                    device=device, changes=_pairs(changes))  # fmt: skip
    console.print(f"the images are listed in {manifest}", markup=False, soft_wrap=True)


@app.command(
    name="score",
    help_epilogue="""examples:
  python -m bench score sd14 --name sd14 --label "SD v1.4" --profile flux-dev
  python -m bench score dalle --name dalle_mini --profile flux-dev --metrics hps     <style>/00000.jpg ...
  python -m bench score geneval_images --name mine --profile flux-dev --metrics geneval    00000/samples/ ...""",
)
def _score(
    images: Path,
    /,
    *,
    name: str,
    label: str = "",
    profile: str = "shapes",
    metrics: _Names = None,
    changes: _Set = (),
    device: str | None = None,
    out: _Out = RUNS,
) -> int:
    """Score images that are there already.

    Made by `draw` or elsewhere, with the scorers of a profile, without drawing anything. The record goes to
    runs/<profile>/external/, and the tables of that profile show it; what it holds of other metrics stays.

    Args:
        images: a manifest or its folder, HPS v2's layout, or GenEval's
        name: id of the model: letters, digits and _
        label: the model's name in tables; default: its id
        profile: name of a profile, or a .toml
        metrics: metrics, comma-separated; default: the profile's
        changes: another value for a setting of the profile; may be given again
        device: torch device; default: the profile's
        out: folder of all runs
    """
    _quiet_libraries()
    from bench.run.external import score, shown

    record = score(images, name, label=label, profile_name=profile, metrics=metrics, device=device,
                   changes=_pairs(changes), runs=out)  # fmt: skip
    print(shown(record))
    return 0 if any(measurement.status == "ok" for measurement in record.measurements) else 1


@app.command(
    name="speed",
    help_epilogue="""examples:
  python -m bench speed --variants fastflux-20 --batches 1,8,32
  python -m bench speed --profile flux-dev --variants fastflux-20 --compile reduce-overhead --end-to-end""",
)
def _speed(
    *,
    profile: str = "shapes",
    variants: _Names,
    batches: _Numbers = (1,),
    compile_mode: Annotated[str, Parameter(name="--compile")] = "",
    end_to_end: bool = False,
    rounds: int = 20,
    require_idle: bool = False,
    changes: _Set = (),
    device: str | None = None,
    out: _Out = RUNS,
) -> None:
    """Time variants in more ways than the tables need.

    Steps at several batch sizes, compiled steps, whole pipeline calls with the peak memory of each stage, FLOPs by kind
    of block; all variants in turn, the dense model among them. Latencies that the device's arithmetic cannot give are
    named. Records go to runs/<profile>/speed/.

    Args:
        profile: name of a profile, or a .toml
        variants: variants, comma-separated
        batches: pictures in a step, comma-separated
        compile_mode: compiled steps too: default or reduce-overhead
        end_to_end: whole pipeline calls too
        rounds: timed rounds
        require_idle: refuse to measure while other work runs
        changes: another value for a setting of the profile; may be given again
        device: torch device; default: the profile's
        out: folder of all runs
    """
    _quiet_libraries()
    from bench.studies.speed import SpeedSettings, speed

    settings = SpeedSettings(batches, compile_mode, end_to_end=end_to_end, rounds=rounds, require_idle=require_idle)
    speed(profile_name=profile, variant_names=variants or (), settings=settings, device=device, changes=_pairs(changes),
          runs=out)  # fmt: skip


@app.command(
    name="regress",
    help_epilogue="""examples:
  python -m bench regress --baseline reports/data/regression        against the committed baseline of this device
  python -m bench regress --update --reason "faster solver"         make this commit's figures the baseline
  python -m bench regress --checks quality,cost                     nothing that depends on the device
  python -m bench regress --model ./my-pruned --baseline my.json    your own pruned model against your own baseline
Ends with 0 when every check was taken and none is worse, with 1 otherwise: what was worse, or what kept it from a
verdict, stands on the terminal, in the summary and in the JUnit XML.""",
)
def _regress(
    *,
    profile: str = "shapes",
    variants: _Names = None,
    model: _Texts = (),
    baseline: Path | None = None,
    update: bool = False,
    reason: str = "",
    checks: _Names = None,
    tolerance: _Texts = (),
    limit: int = 16,
    rounds: int = 60,
    force: bool = False,
    require_idle: bool = False,
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None,
    summary: Path | None = None,
    junit: Path | None = None,
    changes: _Set = (),
    device: str | None = None,
) -> int:
    """Measure a small suite and compare it with a baseline.

    Prune, draw, score and time a small fixed suite, and compare it with a baseline: quality paired by prompt and seed,
    latency as the ratio to dense of one interleaved run, FLOPs and parameters exactly, peak memory, checkpoint size,
    and hashes of pictures. Pruned models are kept until something that they come from changes. The run leaves
    summary.md, junit.xml, run.json and a line in history.jsonl.

    Args:
        profile: name of a profile, or a .toml
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
        changes: another value for a setting of the profile; may be given again
        device: torch device; default: the profile's
    """
    _quiet_libraries()
    from bench.regression.check import tolerances
    from bench.regression.inputs import Suite, named_models
    from bench.regression.run import Options, regress

    suite = Suite.of(profile, variants, named_models(model), limit=limit, rounds=rounds)
    options = Options(
        suite=suite,
        baseline=baseline,
        kinds=checks or (),
        tolerances=tolerances(_pairs(tolerance)),
        update=update,
        reason=reason.strip(),
        force=force,
        require_idle=require_idle,
        out=out,
        summary=summary,
        junit=junit,
        device=device,
        changes=_pairs(changes),
    )
    return regress(options)


@app.command(
    name="history",
    help_epilogue="""examples:
  python -m bench history --metric hps --file reports/data/regression/history.jsonl
  python -m bench history --import reports/data/results/cpu/shapes    add the records of past commits, from git
  python -m reports history runs/regress/shapes/history.jsonl --metric latency -o latency.svg    draw it""",
)
def _history(
    *,
    metric: str = "hps",
    profile: str = "shapes",
    file: Annotated[tuple[Path, ...], Parameter(show_default=False)] = (),
    imported: Annotated[Path | None, Parameter(name="--import")] = None,
) -> None:
    """Show the trend of a metric over commits.

    What regression runs and committed records measured, commit by commit.

    Args:
        metric: hps, geneval, clip_score, fid, latency, flops, parameters or memory
        profile: name of a profile
        file: history file; may be given again; default: runs/regress/<profile>/history.jsonl
        imported: first add what past commits held in this folder of records to the first file
    """
    from bench.regression.git_history import history

    history(metric=metric, profile=profile, imported=imported, files=file)


@app.command(
    name="full_size",
    help_epilogue="""examples:
  python -m bench full_size --dry-run                     what it needs, against what there is
  python -m bench full_size --stages flops                exact, on any machine
  python -m bench full_size --budget 540                  again and again, while it ends with 3
  python -m bench full_size --stages calibration,prune-20 --offload
  python -m bench full_size --accept reports/data/full_size      keep this run as the committed one of its device
Ends with 0 when all is measured, 1 when something failed (--retry takes that again), 3 when the budget was spent before
the end.""",
)
def _full_size(
    *,
    profile: str = "flux-dev-random",
    stages: _Names = None,
    budget: float | None = None,
    offload: bool = False,
    retry: bool = False,
    allow_busy: bool = False,
    dry_run: bool = False,
    accept: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    out: _Out = RUNS,
    changes: _Set = (),
) -> int:
    """Measure FLUX.1-dev's size on one GPU, with random weights: latency, memory, cost of pruning, scorers.

    What needs no checkpoint, in pieces that are each kept when they are finished: killed, or ended by --budget, the
    same command continues. Pieces and records go to runs/<profile>/. `python -m reports full_size` makes
    tables of them.

    Args:
        profile: name of a profile of random weights, or a .toml
        stages: stages, comma-separated; default: all, which --dry-run lists
        budget: seconds; start no piece that may not end in this time
        offload: calibrate and prune with the blocks in host memory
        retry: drop what failed and measure it again; of several calls, give it to the first alone
        allow_busy: measure although other work takes the GPU
        dry_run: show needs and plan, and stop
        accept: folder; copy the records to <folder>/<device> when all is measured and nothing failed
        device: torch device; default: the profile's
        dtype: number format; default: the profile's
        out: folder of all runs
        changes: another value for a setting of the profile; may be given again
    """
    _quiet_libraries()
    from bench.studies.full_size.run import full_size

    return full_size(profile_name=profile, stages=stages, budget=budget, dry_run=dry_run, accept=accept, retry=retry,
                     offload=offload, allow_busy=allow_busy, device=device, dtype=dtype, changes=_pairs(changes),
                     runs=out)  # fmt: skip


def _quiet_libraries() -> None:
    """Third-party chatter (progress bars of loaders, advice to developers) would bury our own messages."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|torch|huggingface_hub|open_clip|timm)")
    logging.disable(logging.WARNING)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; its exit status: 0 done, 1 failed, 2 a faulty option, 3 more to do, 130 interrupted."""
    return run(app, arguments, interrupted="stopped; what is done is kept, the same command continues")
