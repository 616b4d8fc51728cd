"""The command line: ``python -m fastflux prune | inspect``."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fastflux.errors import FastFluxError

if TYPE_CHECKING:
    from fastflux.plan import JSON

PRUNE_EXAMPLES = """examples:
  fastflux prune flux-dev --ratio 0.1 --prompts prompts.txt -o fastflux-10
  fastflux prune flux-dev --method sandwich_training --ratio 0.1 --prompts prompts.txt --fold -o fastflux-10
  fastflux prune flux-dev --method block_removal --blocks 5 --ranking end2start -o removed-5
  fastflux prune flux-dev --method l1_norm --ratio 0.12 -o l1-12
"""
INSPECT_EXAMPLES = """examples:
  fastflux inspect fastflux-10
  fastflux inspect fastflux-10/transformer
"""
#: Options that go into the method's config where they are given; which ones a method has, its config class says.
SETTINGS = ("ratio", "blocks", "ranking", "ridge", "seed", "layers", "samples", "rank", "train_steps", "batch", "lr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; errors that users can mend are one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except FastFluxError as error:
        sys.stderr.write(f"fastflux: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            "fastflux: interrupted; no output was written. The same command goes on from the blocks it finished.\n"
        )
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastflux",
        description="Prune FLUX-style diffusion transformers.",
        epilog=PRUNE_EXAMPLES + INSPECT_EXAMPLES.partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prune(commands)
    inspect = commands.add_parser(
        "inspect",
        help="tell what was pruned",
        epilog=INSPECT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("folder", type=Path, help="a pipeline or transformer folder")
    inspect.set_defaults(run=_inspect)
    return parser


def _add_prune(commands: Any) -> None:
    prune = commands.add_parser(
        "prune",
        help="prune a pipeline's transformer and write a new pipeline",
        description="Calibrates on the model's own trajectories for the prompts, prunes and writes a pipeline that "
        "FluxPipeline.from_pretrained loads after `import fastflux`.",
        epilog=PRUNE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prune.add_argument("pipeline", type=Path, help="folder of the dense pipeline (diffusers layout)")
    prune.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    prune.add_argument("--overwrite", action="store_true", help="replace the output folder when it exists")
    method = prune.add_argument_group("method")
    method.add_argument(
        "--method",
        default="linear_replacement",
        help="%(default)s, sandwich_training (the same, each block followed by training), block_removal or l1_norm",
    )
    method.add_argument(
        "--ratio", type=float, help="share to prune, from 0 to 1: of blocks, or of parameters (l1_norm)"
    )
    method.add_argument("--blocks", type=int, help="number of blocks instead of a ratio")
    method.add_argument("--ranking", help="residual_r2, relative_output_error, start2end, end2start or random")
    method.add_argument("--ridge", type=float, help="relative ridge of the regression")
    method.add_argument("--seed", type=int, help="seed of the random ranking and of training")
    method.add_argument("--layers", type=int, help="blocks in a sandwich: 1, 3 or 5 (sandwich_training)")
    method.add_argument("--samples", type=int, help="images at one time step each to train on")
    method.add_argument("--rank", type=int, help="rank of LoRA (sandwich_training)")
    method.add_argument(
        "--train-steps", type=int, help="training steps, for each block or for the whole model (l1_norm)"
    )
    method.add_argument("--batch", type=int, help="samples in a training step")
    method.add_argument("--lr", type=float, help="learning rate")
    method.add_argument(
        "--fold", action="store_true", help="fold adjacent linear replacements into one (not for ControlNet)"
    )
    calibration = prune.add_argument_group("calibration")
    calibration.add_argument("--prompts", type=Path, help="text file, a prompt a line, or .jsonl with a prompt key")
    calibration.add_argument("--limit", type=int, help="use the first LIMIT prompts only")
    calibration.add_argument("--steps", type=int, default=20, help="sampling steps (%(default)s)")
    calibration.add_argument("--guidance", type=float, default=3.5, help="guidance scale (%(default)s)")
    calibration.add_argument("--batch-size", type=int, default=1, help="prompts at once (%(default)s)")
    calibration.add_argument("--height", type=int, help="pixels (the VAE's sample size)")
    calibration.add_argument("--width", type=int, help="pixels (the VAE's sample size)")
    calibration.add_argument("--text-tokens", type=int, help="T5 tokens a prompt (the tokenizer's, at most 512)")
    calibration.add_argument("--calibration-seed", type=int, default=0, help="seed of the noise (%(default)s)")
    calibration.add_argument("--device", help="cpu, cuda, ... (cuda when there is one)")
    calibration.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    calibration.add_argument(
        "--work",
        type=Path,
        help="folder of sandwich_training's progress, kept for other ratios (deleted in the end without this option)",
    )
    plan = prune.add_argument_group("plan")
    plan.add_argument("--base-model", help="name of the base model in the plan (the folder's name)")
    prune.set_defaults(run=_prune)


def _prune(options: argparse.Namespace) -> None:
    from fastflux.folders import require_absent
    from fastflux.methods.registry import make_config
    from fastflux.prompts import read_prompts

    # Everything cheap that can fail comes before the model is loaded.
    settings: dict[str, JSON] = {
        name.removeprefix("train_"): getattr(options, name) for name in SETTINGS if getattr(options, name) is not None
    }
    config = make_config(options.method, settings)
    require_absent(options.output, overwrite=options.overwrite)
    for name in ("limit", "steps", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise FastFluxError(f"--{name.replace('_', '-')} is {value}, but it must be at least 1.")
    prompts: list[str] = []
    if config.needs_statistics:
        if options.prompts is None:
            raise FastFluxError(f"{options.method} calibrates on prompts: give a file of them with --prompts.")
        prompts = read_prompts(options.prompts)[: options.limit]

    import torch

    from fastflux.calibration import Calibration
    from fastflux.checkpoint import revision_of
    from fastflux.folding import fold_
    from fastflux.model import parameter_count
    from fastflux.pipelines import export_pipeline, load_pipeline
    from fastflux.pruning import prune_
    from fastflux.trajectories import Trajectories

    console = Console(stderr=True)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise FastFluxError(
            f"--device {device} cannot be used here: name one that PyTorch finds, such as cpu."
        ) from error
    pipeline: Any = load_pipeline(options.pipeline, dtype=getattr(torch, options.dtype), device=device)
    transformer = pipeline.transformer
    before = parameter_count(transformer)
    drive = Trajectories(
        pipeline,
        prompts,
        steps=options.steps,
        guidance=options.guidance,
        batch_size=options.batch_size,
        height=options.height,
        width=options.width,
        text_tokens=options.text_tokens,
        seed=options.calibration_seed,
    )
    work = options.work or options.output.with_name(f"{options.output.name}.progress")
    with _progress(console) as progress:
        calibrating = progress.add_task("calibrating", total=len(prompts), visible=config.needs_statistics)
        replacing = progress.add_task("replacing blocks", total=None, visible=False)
        calibration = Calibration(
            lambda: drive(lambda done: progress.advance(calibrating, done)),
            folder=work,
            advance=lambda done, total: progress.update(replacing, completed=done, total=total, visible=True),
        )
        plan = prune_(
            transformer,
            config,
            calibration,
            base_model=options.base_model or options.pipeline.resolve().name,
            base_revision=revision_of(options.pipeline / "transformer"),
        )
    if options.fold:
        plan = fold_(transformer)
    export_pipeline(options.pipeline, transformer, options.output, overwrite=options.overwrite)
    if options.work is None:
        shutil.rmtree(work, ignore_errors=True)
    after = parameter_count(transformer)
    console.print(
        f"{options.output}: plan {plan.hash}, {len(plan.replacements)} blocks replaced, "
        f"{after:,} parameters ({after / before:.1%} of the dense model).",
        soft_wrap=True,
        markup=False,
    )


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _inspect(options: argparse.Namespace) -> None:
    from fastflux.checkpoint import read_json
    from fastflux.plan import PruningPlan

    inner = options.folder / "transformer"
    config = read_json((inner if inner.is_dir() else options.folder) / "config.json")
    table = Table(show_header=False, box=None)
    table.add_row("class", str(config.get("_class_name")))
    if (data := config.get("pruning_plan")) is None:
        table.add_row("plan", "none: the model is dense")
    else:
        plan = PruningPlan.from_json(data)
        table.add_row("plan", plan.hash)
        table.add_row("base model", escape(f"{plan.base_model or 'not recorded'} {plan.base_revision}"))
        table.add_row("method", plan.method)
        for name, value in plan.config.items():
            table.add_row(f"  {name}", escape(str(value)))
        for replacement in plan.replacements:
            table.add_row(replacement.kind, str(replacement.block))
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    sys.exit(main())
