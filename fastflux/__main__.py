"""The command line: ``python -m fastflux prune | rank | generate | inspect``. What the commands do is in `commands`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastflux.errors import FastFluxError

DTYPES = ("float32", "bfloat16", "float16")
PRUNE_EXAMPLES = """examples:
  fastflux prune flux-dev --ratio 0.1 --prompts prompts.txt -o fastflux-10
  fastflux prune flux-dev --method sandwich_training --ratio 0.1 --prompts prompts.txt --fold -o fastflux-10
  fastflux prune flux-dev --method sandwich_training --ratio 0.1 --prompts p.txt --dtype bfloat16 --offload -o out
  fastflux prune flux-dev --method block_removal --blocks 5 --ranking end2start -o removed-5
  fastflux prune flux-dev --ratio 0.1 --ranking ranking.json --prompts prompts.txt -o fastflux-10
  fastflux prune black-forest-labs/FLUX.1-dev --ratio 0.1 --images pictures/ -o fastflux-10
  fastflux prune flux-dev --method l1_norm --ratio 0.12 -o l1-12
  fastflux prune sd3-medium --ratio 0.1 --guidance 7 --prompts prompts.txt -o fastsd3-10
"""
INSPECT_EXAMPLES = """examples:
  fastflux inspect fastflux-10
  fastflux inspect fastflux-10/transformer
"""
RANK_EXAMPLES = """examples:
  fastflux rank flux-dev --prompts prompts.txt
  fastflux rank flux-dev --prompts prompts.txt --ranking relative_output_error --json ranking.json
"""
GENERATE_EXAMPLES = """examples:
  fastflux generate fastflux-10 "a photo of a red bicycle" -o bicycle.png
  fastflux generate fastflux-10 "a cat" "a dog" --steps 20 --seed 7 -o pets/
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; errors that users can mend are one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        from fastflux.commands import COMMANDS  # torch loads here, so that --help need not wait for it

        COMMANDS[options.command](options)
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
        description="Prune the diffusion transformers of FLUX and Stable Diffusion 3.",
        epilog="".join(
            [
                PRUNE_EXAMPLES,
                *(part.partition("\n")[2] for part in (RANK_EXAMPLES, GENERATE_EXAMPLES, INSPECT_EXAMPLES)),
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_prune(commands)
    _add_rank(commands)
    _add_generate(commands)
    inspect = commands.add_parser(
        "inspect",
        help="tell what was pruned",
        epilog=INSPECT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("folder", type=Path, help="a pipeline or transformer folder")
    return parser


def _add_prune(commands: Any) -> None:
    prune = commands.add_parser(
        "prune",
        help="prune a pipeline's transformer and write a new pipeline",
        description="Calibrates on the model's own trajectories for the prompts, prunes and writes a pipeline that "
        "diffusers' own pipeline class loads after `import fastflux`.",
        epilog=PRUNE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prune.add_argument("pipeline", type=Path, help="folder of the dense pipeline (diffusers layout), or its hub id")
    prune.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    prune.add_argument("--overwrite", action="store_true", help="replace the output folder when it exists")
    prune.add_argument(
        "--save-dtype", choices=DTYPES, help="to write the pruned transformer in (what the dense one is stored in)"
    )
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
    method.add_argument(
        "--ranking",
        help="residual_r2, relative_output_error, output_mse, block_influence, start2end, end2start, random, or a file "
        "that `fastflux rank --json` wrote",
    )
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
    calibration = _add_calibration(
        prune,
        at_once="prompts or pictures, and recorded samples in forwards without gradients,",
        unless_given="1, and as many samples as hold 16,384 tokens, at most 64: 3 of FLUX.1-dev's at 1024x1024",
    )
    calibration.add_argument(
        "--work",
        type=Path,
        help="folder of sandwich_training's progress, kept for other ratios (deleted in the end without this option)",
    )
    calibration.add_argument(
        "--activations",
        choices=("ram", "disk"),
        default="ram",
        help="where sandwich_training keeps what enters the blocks: disk needs little memory and changes nothing else",
    )
    calibration.add_argument(
        "--keep",
        type=int,
        default=4,
        help="places of the model it is kept for: fewer need less room and more forwards (%(default)s)",
    )
    calibration.add_argument(
        "--save-every",
        type=int,
        metavar="N",
        help="write linear_replacement's statistics behind every N prompts or pictures: a killed run goes on there "
        "(FLUX.1-dev's take 8.6 GB on CUDA in bfloat16, 17 GB elsewhere)",
    )
    calibration.add_argument(
        "--offload",
        action="store_true",
        help="keep blocks and text encoders in the machine's memory and bring each to the device when it runs",
    )
    plan = prune.add_argument_group("plan")
    plan.add_argument("--base-model", help="name of the base model in the plan (the folder's name)")


def _add_calibration(
    parser: argparse.ArgumentParser, *, at_once: str = "prompts or pictures", unless_given: str = "1"
) -> Any:
    """Options of `commands.open_pipeline` and `commands.calibration_drive`; the texts are of ``--batch-size``."""
    calibration = parser.add_argument_group("calibration")
    calibration.add_argument("--prompts", type=Path, help="text file, a prompt a line, or .jsonl with a prompt key")
    calibration.add_argument(
        "--images",
        type=Path,
        help="folder of pictures with captions (picture.txt or metadata.jsonl) instead of prompts",
    )
    calibration.add_argument("--limit", type=int, help="use the first LIMIT prompts or pictures only")
    calibration.add_argument("--steps", type=int, default=20, help="sampling steps, or noise levels (%(default)s)")
    calibration.add_argument("--guidance", type=float, default=3.5, help="guidance scale (%(default)s)")
    calibration.add_argument("--batch-size", type=int, help=f"{at_once} at once ({unless_given})")
    calibration.add_argument("--height", type=int, help="pixels (the VAE's sample size)")
    calibration.add_argument("--width", type=int, help="pixels (the VAE's sample size)")
    calibration.add_argument(
        "--text-tokens", type=int, help="T5 tokens a prompt (the tokenizer's, at most 512; SD3: 256)"
    )
    calibration.add_argument("--calibration-seed", type=int, default=0, help="seed of the noise (%(default)s)")
    _add_place(calibration)
    return calibration


def _add_place(parser: Any) -> None:
    parser.add_argument("--device", help="cpu, cuda, ... (cuda when there is one)")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="to compute in (float32 on a CPU, on a GPU what the transformer is stored in)"
    )


def _add_rank(commands: Any) -> None:
    rank = commands.add_parser(
        "rank",
        help="tell how well each block can be replaced, without replacing any",
        description="Calibrates once and lists the blocks, least important first.",
        epilog=RANK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rank.add_argument("pipeline", type=Path, help="folder of the dense pipeline (diffusers layout), or its hub id")
    rank.add_argument(
        "--ranking", default="residual_r2", help="%(default)s, relative_output_error, output_mse or block_influence"
    )
    rank.add_argument("--ridge", type=float, help="relative ridge of the regression")
    rank.add_argument("--json", type=Path, help="write the list there too")
    _add_calibration(rank)


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser(
        "generate",
        help="draw with a pipeline, dense or pruned",
        epilog=GENERATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    generate.add_argument("pipeline", type=Path, help="folder of the pipeline (diffusers layout), or its hub id")
    generate.add_argument("prompt", nargs="+", help="one image each")
    generate.add_argument("-o", "--output", type=Path, required=True, help="a .png file, or a folder for several")
    generate.add_argument("--steps", type=int, default=28, help="sampling steps (%(default)s)")
    generate.add_argument("--guidance", type=float, default=3.5, help="guidance scale (%(default)s)")
    generate.add_argument("--seed", type=int, default=0, help="seed of the noise, the same for each (%(default)s)")
    generate.add_argument("--height", type=int, help="pixels (the VAE's sample size)")
    generate.add_argument("--width", type=int, help="pixels (the VAE's sample size)")
    generate.add_argument("--text-tokens", type=int, help="T5 tokens a prompt (the tokenizer's, at most 512; SD3: 256)")
    _add_place(generate)


if __name__ == "__main__":
    sys.exit(main())
