"""The command line of the evaluation suite: `python -m bench --help`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bench.options import (
    FULL_SIZE,
    MEASURED,
    REGRESSION,
    RUN,
    FullSizeRun,
    Measured,
    Names,
    Numbers,
    Out,
    Regression,
    Run,
    Texts,
    pairs,
)
from bench.progress import console, quiet_libraries
from fastflux.command_line import run as run_app
from fastflux.errors import FastFluxError
from fastflux.text import printable

app = App(
    name="python -m bench",
    help="FastFLUX's evaluation suite.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    version_flags=[],
)


@app.command(
    name="reproduce",
    help_epilogue="""examples:
  python -m bench reproduce                          the paper's tables
  python -m bench reproduce --only table6
  python -m bench reproduce --all                    and all that goes beyond the paper
  python -m bench reproduce --limit 4 --seeds 1      a quick look at the whole road
  python -m bench reproduce --dry-run                what it takes, without doing it
  python -m reports reproduce --accept               with tables and figures; make this run the committed one""",
)
def _reproduce(
    *,
    run: Run = RUN,
    only: Names = None,
    every: Annotated[bool, Parameter(name="--all")] = False,
    variants: Names = None,
    limit: int | None = None,
    seeds: int | None = None,
    force: bool = False,
    rank: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    address: str | None = None,
) -> int:
    """Prune, generate, score and measure all that the tables need.

    Measure every variant of a profile afresh into runs/<profile>/. What an earlier run measured with the same inputs is
    not measured again; a committed record never counts. Prints the path of run.json, which says where the records are.

    Args:
        only: tables, comma-separated, such as table1,table6; default: those of the paper
        every: all tables: FastFLUX+, equal latency, prunings from further seeds and claims, too
        variants: variants, comma-separated, such as fastflux-10,l1-12
        limit: only so many prompts of each style and task
        seeds: so many images of each prompt
        force: measure again what is there already
        rank: measure the order of blocks afresh first, instead of the profile's
        dry_run: check that everything is there, say what the run takes, and stop
        workers: processes that share the work, 1 for this one alone; default: one a GPU, or one a core
        address: of a running Ray cluster whose machines do the work: auto, or ray://host:10001
    """
    quiet_libraries()
    from bench.profiles.profile import load_profile
    from bench.run.reproduce import NOTE, reproduce
    from bench.studies.ranking import RANK_SAMPLES
    from bench.studies.ranking import rank as measure_ranking
    from bench.tables import MAIN, TABLES

    if load_profile(run.profile, pairs(run.changes)).random:  # no pictures to score: full_size measures all there is
        from bench.studies.full_size.run import full_size

        return full_size(dry_run=dry_run, **run.options)
    if only is not None and every:
        raise FastFluxError("--all makes all tables, --only some: give one of them")
    tables = tuple(TABLES) if every or variants is not None else MAIN
    finished = reproduce(
        tables=tables if only is None else only,
        variant_names=variants,
        limit=limit,
        seeds=seeds,
        force=force,
        ranking=measure_ranking(samples=RANK_SAMPLES, workers=workers, address=address, **run.options)
        if rank and not dry_run
        else None,
        dry_run=dry_run,
        workers=workers,
        address=address,
        told=lambda found: print(found.folder / NOTE, flush=True),
        **run.options,
    )
    if finished is None:
        return 0
    print(finished.folder / NOTE)
    return 1 if finished.failures else 0


@app.command(
    name="rank",
    help_epilogue="""examples:
  python -m bench rank
  python -m bench rank --samples 4 --accept          make this order the one that the profile prunes in
  fastflux prune MODEL --ratio 0.1 --ranking bench/profiles/rankings/shapes.json --prompts prompts.txt -o OUT""",
)
def _rank(
    *,
    run: Run = RUN,
    samples: int = 2,
    force: bool = False,
    accept: bool = False,
    workers: int | None = None,
    address: str | None = None,
) -> None:
    """Measure the paper's importance of every block: FID and CLIP score without it.

    Draw the calibration prompts without each block in turn, score the images by FID (against the dense model's) and
    CLIP score, and order the blocks, least important first. An interrupted run goes on at its block. `python -m reports
    importance` draws what comes.

    Args:
        samples: images of each prompt
        force: measure again what is there already
        accept: copy the order to bench/profiles/rankings/
        workers: processes that share the blocks, 1 for this one alone; default: one a GPU, or one a core
        address: of a running Ray cluster whose machines do the work
    """
    quiet_libraries()
    from bench.studies.ranking import rank

    made = rank(samples=samples, force=force, accept=accept, workers=workers, address=address, **run.options)
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
    measured: Measured = MEASURED,
    steps: int | None = None,
    guidance: float | None = None,
    size: int | None = None,
    limit: int | None = None,
    out: Out,
) -> None:
    """Draw a profile's prompts with any diffusers pipeline.

    Of a pipeline that is not pruned here, such as Stable Diffusion v1.4, from the seeds that the profile's own variants
    get. `score` measures the images.

    Args:
        model: a pipeline's folder or hub id
        steps: sampling steps; default: the profile's
        guidance: guidance scale; default: the profile's
        size: height and width in pixels; default: the profile's
        limit: only so many prompts of each style and task
        out: folder of the images and their manifest
    """
    quiet_libraries()
    from bench.run.external import draw

    manifest = draw(model, out, steps=steps, guidance=guidance, size=size, limit=limit, **measured.options)
    console.print(f"the images are listed in {manifest}", markup=False, soft_wrap=True)


@app.command(
    name="score",
    help_epilogue="""examples:
  python -m bench score sd14 --name sd14 --label "SD v1.4" --profile flux-dev
  python -m bench score dalle --name dalle_mini --profile flux-dev --metrics hps     <style>/00000.jpg ...
  python -m bench score geneval_images --name mine --profile flux-dev --metrics geneval    00000/samples/ ...""",
)
def _score(images: Path, /, *, name: str, label: str = "", run: Run = RUN, metrics: Names = None) -> int:
    """Score images that are there already.

    Made by `draw` or elsewhere, with the scorers of a profile, without drawing anything. The record goes to
    runs/<profile>/external/, and the tables of that profile show it; what it holds of other metrics stays.

    Args:
        images: a manifest or its folder, HPS v2's layout, or GenEval's
        name: id of the model: letters, digits and _
        label: the model's name in tables; default: its id
        metrics: metrics, comma-separated; default: the profile's
    """
    quiet_libraries()
    from bench.run.external import score, shown

    record = score(images, name, label=label, metrics=metrics, **run.options)
    print(printable(shown(record)))
    asked = [found for found in record.measurements if metrics is None or found.info.name in metrics]
    return 0 if any(measurement.status == "ok" for measurement in asked) else 1


@app.command(
    name="speed",
    help_epilogue="""examples:
  python -m bench speed --variants fastflux-20 --batches 1,8,32
  python -m bench speed --profile flux-dev --variants fastflux-20 --compile reduce-overhead --end-to-end""",
)
def _speed(
    *,
    run: Run = RUN,
    variants: Names,
    batches: Numbers = (1,),
    compile_mode: Annotated[str, Parameter(name="--compile")] = "",
    end_to_end: bool = False,
    rounds: int = 20,
    require_idle: bool = False,
) -> None:
    """Time variants in more ways than the tables need.

    Steps at several batch sizes, compiled steps, whole pipeline calls with the peak memory of each stage, FLOPs by kind
    of block; all variants in turn, the dense model among them. Latencies that the device's arithmetic cannot give are
    named. Records go to runs/<profile>/speed/.

    Args:
        variants: variants, comma-separated
        batches: pictures in a step, comma-separated
        compile_mode: compiled steps too: default or reduce-overhead
        end_to_end: whole pipeline calls too
        rounds: timed rounds
        require_idle: refuse to measure while other work runs
    """
    quiet_libraries()
    from bench.studies.speed import SpeedSettings, speed

    settings = SpeedSettings(batches, compile_mode, end_to_end=end_to_end, rounds=rounds, require_idle=require_idle)
    speed(variant_names=variants or (), settings=settings, **run.options)


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
    measured: Measured = MEASURED,
    variants: Names = None,
    model: Texts = (),
    checks: Names = None,
    tolerance: Texts = (),
    limit: int = 16,
    rounds: int = 60,
    regression: Regression = REGRESSION,
) -> int:
    """Measure a small suite and compare it with a baseline.

    Prune, draw, score and time a small fixed suite, and compare it with a baseline: quality paired by prompt and seed,
    latency as the ratio to dense of one interleaved run, FLOPs and parameters exactly, peak memory, checkpoint size,
    and hashes of pictures. Pruned models are kept until something that they come from changes. The run leaves
    summary.md, junit.xml, run.json and a line in history.jsonl.

    Args:
        variants: variants to prune and compare, comma-separated; default: fastflux-10,fastflux-20,l1-21
        model: [NAME=]DIR, a pruned transformer or exported pipeline of your own instead of variants; may be repeated
        checks: of quality, latency, cost, render, comma-separated; default: all, render on a CPU only
        tolerance: NAME=VALUE, another tolerance such as hps=0.3 (a difference) or latency=0.1 (a fraction)
        limit: prompts of each style and task
        rounds: timed rounds, up to four times as many where that leaves something open
    """
    quiet_libraries()
    from bench.regression.inputs import Suite, named_models
    from bench.regression.run import Options, regress
    from bench.regression.verdicts import tolerances

    suite = Suite.of(measured.profile, variants, named_models(model), limit=limit, rounds=rounds)
    given = {**vars(regression), "reason": regression.reason.strip(), "device": measured.device}
    given |= {"changes": pairs(measured.changes), "tolerances": tolerances(pairs(tolerance))}
    return regress(Options(suite=suite, kinds=checks or (), **given))


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
    run: FullSizeRun = FULL_SIZE,
    stages: Annotated[Names, Parameter(negative="--no-stages")] = None,
    budget: float | None = None,
    offload: bool = False,
    retry: bool = False,
    allow_busy: bool = False,
    dry_run: bool = False,
    accept: Path | None = None,
    dtype: str | None = None,
) -> int:
    """Measure FLUX.1-dev's size on one GPU, with random weights: latency, memory, cost of pruning, scorers.

    What needs no checkpoint, in pieces that are each kept when they are finished: killed, or ended by --budget, the
    same command continues. Pieces and records go to runs/<profile>/. `python -m reports full_size` makes
    tables of them.

    Args:
        stages: stages, comma-separated; default: all, which --dry-run lists; --no-stages writes records and measures
            nothing
        budget: seconds; start no piece that may not end in this time
        offload: calibrate and prune with the blocks in host memory
        retry: drop what failed and measure it again; of several calls, give it to the first alone
        allow_busy: measure although other work takes the GPU
        dry_run: show needs and plan, and stop
        accept: folder; copy the records to <folder>/<device> when all is measured and nothing failed
        dtype: number format; default: the profile's
    """
    quiet_libraries()
    from bench.studies.full_size.run import full_size

    return full_size(stages=stages, budget=budget, dry_run=dry_run, accept=accept, retry=retry, offload=offload,
                     allow_busy=allow_busy, dtype=dtype, **run.options)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; its exit status: 0 done, 1 failed, 2 a faulty option, 3 more to do, 130 interrupted."""
    return run_app(app, arguments, interrupted="stopped; what is done is kept, the same command continues")
