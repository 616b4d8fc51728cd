"""The command line: ``fastflux prune | rank | generate | inspect``; torch loads with a command, not with --help."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from fastflux.command_line import run
from fastflux.errors import FastFluxError
from fastflux.settings import CalibrationSettings, Format, Place, Resources
from fastflux.threads import use_threads_for

if TYPE_CHECKING:
    from fastflux.plan import JSON

WIDE = 120
"""Characters a table of rankings takes; a narrower terminal wraps its lines."""
PRUNE_EXAMPLES = """examples:
  fastflux prune flux-dev --ratio 0.1 --prompts prompts.txt -o fastflux-10
  fastflux prune flux-dev --method sandwich_training --ratio 0.1 --prompts prompts.txt --fold -o fastflux-10
  fastflux prune flux-dev --method sandwich_training --ratio 0.1 --prompts p.txt --dtype bfloat16 --offload -o out
  fastflux prune flux-dev --method block_removal --blocks 5 --ranking end2start -o removed-5
  fastflux prune flux-dev --ratio 0.1 --ranking ranking.json --prompts prompts.txt -o fastflux-10
  fastflux prune black-forest-labs/FLUX.1-dev --ratio 0.1 --images pictures/ -o fastflux-10
  fastflux prune flux-dev --method l1_norm --ratio 0.12 -o l1-12
  fastflux prune flux-dev --method sublayer_replacement --flops 0.8 --prompts prompts.txt -o fastflux-plus
  fastflux prune sd3-medium --ratio 0.1 --guidance 7 --prompts prompts.txt -o fastsd3-10
"""
RANK_EXAMPLES = """examples:
  fastflux rank flux-dev --prompts prompts.txt
  fastflux rank flux-dev --prompts prompts.txt --ranking relative_output_error --json ranking.json
"""
GENERATE_EXAMPLES = """examples:
  fastflux generate fastflux-10 "a photo of a red bicycle" -o bicycle.png
  fastflux generate fastflux-10 "a cat" "a dog" --steps 20 --seed 7 -o pets/
"""
INSPECT_EXAMPLES = """examples:
  fastflux inspect fastflux-10
  fastflux inspect fastflux-10/transformer
"""
EXAMPLES = PRUNE_EXAMPLES + "".join(
    examples.partition("\n")[2] for examples in (RANK_EXAMPLES, GENERATE_EXAMPLES, INSPECT_EXAMPLES)
)

app = App(
    name="fastflux",
    help="Prune diffusion transformers: FLUX, Stable Diffusion 3 and the like.",
    help_format="plaintext",
    help_epilogue=EXAMPLES,
    default_parameter=Parameter(negative=()),
)

Output = Annotated[Path, Parameter(alias="-o")]
Method = Parameter(group="Method")
Calibrating = Annotated[CalibrationSettings, Parameter(name="*", group="Calibration")]


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Settings of pruning methods; each takes its own, and has its own default.

    Attributes:
        ratio: share to prune, from 0 to 1: of blocks, or of parameters (l1_norm, width_pruning)
        blocks: number of blocks instead of a ratio
        ranking: residual_r2, relative_output_error, output_mse, block_influence, start2end, end2start, random, or a
            file that `fastflux rank --json` wrote
        ridge: relative ridge of the regression
        seed: seed of the random ranking and of training
        layers: blocks in a sandwich: 1, 3 or 5 (sandwich_training)
        flops: share of the dense step's FLOPs to leave (sublayer_replacement)
        latency: share of the dense step's measured time to leave instead
        kinds: what may stand in a block's place, separated by commas (sublayer_replacement): linear, linear_attention,
            linear_mlp, linear_halves, removed
        keep: blocks that stay, separated by commas, as transformer_blocks.4-18 (sublayer_replacement)
        targets: dense or current: whose blocks' outputs are fitted or trained to (sublayer_replacement,
            sandwich_training)
        scored: samples that measure the error of one step (sublayer_replacement)
        fitted: samples that fit the layers, 0 for all (sublayer_replacement)
        trajectories: prompts whose sampled latents measure the error of each replacement, 0 for that of one step
            (sublayer_replacement)
        samples: images at one time step each to train on
        rank: rank of LoRA
        steps: training steps, for each block or for the whole model (l1_norm, width_pruning,
            sublayer_replacement)
        batch: samples in a training step
        lr: learning rate
    """

    ratio: float | None = None
    blocks: int | None = None
    ranking: str | None = None
    ridge: float | None = None
    seed: int | None = None
    layers: int | None = None
    flops: float | None = None
    latency: float | None = None
    kinds: str | None = None
    keep: Annotated[str | None, Parameter(name="--keep-blocks")] = None
    targets: str | None = None
    scored: int | None = None
    fitted: int | None = None
    trajectories: int | None = None
    samples: int | None = None
    rank: int | None = None
    steps: Annotated[int | None, Parameter(name="--train-steps")] = None
    batch: int | None = None
    lr: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; errors that users can mend are one sentence on stderr."""
    return run(app, arguments, interrupted="interrupted; no output was written.")


@app.command(help_epilogue=PRUNE_EXAMPLES)
def prune(
    pipeline: Path,
    /,
    *,
    output: Output,
    overwrite: bool = False,
    save_dtype: Format | None = None,
    base_model: str = "",
    method: Annotated[str, Method] = "linear_replacement",
    given: Annotated[MethodSettings, Parameter(name="*", group="Method")] = MethodSettings(),  # frozen
    fold: Annotated[bool, Method] = False,
    data: Calibrating = CalibrationSettings(),  # noqa: B008  # frozen
    resources: Annotated[Resources, Parameter(name="*", group="Resources")] = Resources(),  # noqa: B008
) -> None:
    """Prune a pipeline's transformer and write a new pipeline.

    Calibrates on the model's own trajectories for the prompts, or on noised pictures, prunes and writes a pipeline that
    diffusers' own pipeline class loads after `import fastflux`.

    Args:
        pipeline: folder of the dense pipeline (diffusers layout), or its hub id
        output: folder to write
        overwrite: replace the output folder when it exists
        save_dtype: to write the pruned transformer in (what the dense one is stored in)
        base_model: name of the base model in the plan (the folder's name)
        method: linear_replacement, sandwich_training (the same, each block followed by training), block_removal,
            l1_norm (heads and MLP channels), width_pruning (the same, what stays fitted to stand in for what goes) or
            sublayer_replacement (attentions, MLPs and blocks chosen by budget, then distilled as a whole)
        fold: fold adjacent linear replacements into one (not for ControlNet)
    """
    from rich.console import Console

    use_threads_for(pipeline)
    from fastflux import workflow
    from fastflux.files import require_new_folder
    from fastflux.io.checkpoint import read_ranking
    from fastflux.io.pipelines import foreign_to_pipeline
    from fastflux.methods.registry import make_config

    settings: dict[str, JSON] = {name: value for name, value in vars(given).items() if value is not None}
    if given.ranking is not None and given.ranking.endswith(".json"):
        ranking = Path(given.ranking)
        require_new_folder(output, overwrite=overwrite, foreign=foreign_to_pipeline, inputs={"the ranking": ranking})
        settings["ranking"] = read_ranking(ranking)
    config = make_config(method, settings)
    try:
        done = workflow.prune(
            pipeline,
            config,
            data,
            output=output,
            overwrite=overwrite,
            fold=fold,
            save_dtype=save_dtype,
            base_model=base_model,
            resources=resources,
        )
    except KeyboardInterrupt as interruption:
        if method == "sandwich_training" or resources.save_every is not None:
            interruption.add_note("interrupted; no output was written. The same command goes on from what it finished.")
        raise
    console = Console(stderr=True)
    if (cost := done.cost).training_steps:
        console.print(
            f"{cost.training_steps:,} training steps, at most {cost.trainable_parameters:,} parameters at once, "
            f"{cost.seconds:.0f} s",
            markup=False,
        )
    console.print(
        f"{output}: plan {done.plan.hash}, {len(done.plan.replacements)} blocks replaced, {done.parameters:,} "
        f"parameters ({done.parameters / done.dense_parameters:.1%} of the dense model).",
        soft_wrap=True,
        markup=False,
    )


@app.command(help_epilogue=RANK_EXAMPLES)
def rank(
    pipeline: Path,
    /,
    *,
    ranking: str = "block_influence",
    ridge: float | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    data: Calibrating = CalibrationSettings(),  # noqa: B008  # frozen
    place: Annotated[Place, Parameter(name="*", group="Resources")] = Place(),  # noqa: B008
) -> None:
    """Tell how well each block can be replaced, without replacing any.

    Calibrates once and lists the blocks, least important first.

    Args:
        pipeline: folder of the dense pipeline (diffusers layout), or its hub id
        ranking: residual_r2, relative_output_error, output_mse or block_influence
        ridge: relative ridge of the regression
        json_file: write the list there too
    """
    from rich.console import Console
    from rich.table import Column, Table

    use_threads_for(pipeline)
    from fastflux import workflow
    from fastflux.calibration.importance import MEASURED_RANKINGS
    from fastflux.calibration.least_squares import DEFAULT_RIDGE
    from fastflux.files import require_room, write_text

    if json_file is not None:
        if json_file.is_dir():
            raise FastFluxError(f"{json_file} is a folder: name a file to write the ranking to.")
        require_room(json_file.parent)
    fits = workflow.rank(pipeline, data, ranking=ranking, ridge=DEFAULT_RIDGE if ridge is None else ridge, place=place)
    table = Table("#", Column("block", no_wrap=True), *(name.replace("_", " ") for name in MEASURED_RANKINGS), box=None)
    for number, (block, fit) in enumerate(fits.items(), 1):
        table.add_row(str(number), str(block), *(f"{getattr(fit, name):.4g}" for name in MEASURED_RANKINGS))
    Console(width=max(Console().width, WIDE), soft_wrap=True).print(table)
    if json_file is not None:
        entries = [
            {"block": str(block), **{name: getattr(fit, name) for name in (*MEASURED_RANKINGS, "ridge")}}
            for block, fit in fits.items()
        ]
        write_text(json_file, json.dumps({"ranking": ranking, "blocks": entries}, indent=1) + "\n")


@app.command(help_epilogue=GENERATE_EXAMPLES)
def generate(
    pipeline: Path,
    /,
    *prompt: str,
    output: Output,
    steps: int = 28,
    guidance: float = 3.5,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
    text_tokens: int | None = None,
    place: Annotated[Place, Parameter(name="*")] = Place(),  # noqa: B008  # frozen
) -> None:
    """Draw with a pipeline, dense or pruned.

    Args:
        pipeline: folder of the pipeline (diffusers layout), or its hub id
        prompt: one image each
        output: a .png file, or a folder for several
        steps: sampling steps
        guidance: guidance scale
        seed: seed of the noise, the same for each
        height: pixels (the VAE's sample size)
        width: pixels (the VAE's sample size)
        text_tokens: T5 tokens a prompt (the tokenizer's, at most 512; SD3: 256)
    """
    from rich.console import Console
    from rich.markup import escape

    use_threads_for(pipeline)
    from fastflux import workflow
    from fastflux.files import require_room, whole_file

    single = output.suffix.lower() == ".png"
    if not prompt:
        raise FastFluxError("There is nothing to draw: give a prompt for each picture.")
    if single and len(prompt) > 1:
        raise FastFluxError(f"{len(prompt)} images do not fit into {output}: name a folder, or give one prompt.")
    if not single and output.suffix.lower() in (".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"):
        raise FastFluxError(f"Pictures are written as PNG, not as {output.suffix}: name a .png file or a folder.")
    require_room(output.parent if single else output)
    images = workflow.generate(
        pipeline,
        prompt,
        steps=steps,
        guidance=guidance,
        seed=seed,
        height=height,
        width=width,
        text_tokens=text_tokens,
        place=place,
    )
    for number, image in enumerate(images):
        path = output if single else output / f"{number:03d}.png"
        with whole_file(path) as partial:
            image.save(partial, format="PNG")
        Console(soft_wrap=True).print(escape(str(path)))


@app.command(help_epilogue=INSPECT_EXAMPLES)
def inspect(folder: Path, /) -> None:
    """Tell what was pruned.

    Args:
        folder: a pipeline or transformer folder
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fastflux.io.checkpoint import read_json
    from fastflux.plan import PruningPlan

    inner = folder / "transformer"
    config = read_json((inner if inner.is_dir() else folder) / "config.json")
    table = Table(show_header=False, box=None)
    table.add_row("class", escape(str(config.get("_class_name"))))
    if (data := config.get("pruning_plan")) is None:
        table.add_row("plan", "none: the model is dense")
    else:
        plan = PruningPlan.from_json(data)
        table.add_row("plan", plan.hash)
        table.add_row("base model", escape(f"{plan.base_model or 'not recorded'} {plan.base_revision}"))
        table.add_row("method", escape(plan.method))
        for name, value in plan.config.items():
            table.add_row(f"  {name}", escape(str(value)))
        for replacement in plan.replacements:
            table.add_row(replacement.kind, str(replacement.block))
    Console(soft_wrap=True).print(table)
