"""What `python -m bench` takes: its commands, their options and examples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.arguments import add_set, names
from bench.regression.command import add_history, add_regress
from bench.tables import TABLES


def _numbers(text: str) -> list[int]:
    return [int(number) for number in names(text)]


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m bench`; what it reads names its `command`."""
    whole = argparse.ArgumentParser(prog="python -m bench", description="FastFLUX's evaluation suite.")
    commands = whole.add_subparsers(dest="command", required=True)
    reproduce = commands.add_parser(
        "reproduce",
        help="prune, generate, score, measure and print the tables",
        description="Measure every variant of a profile afresh into runs/<profile>/ and print its tables. "
        "What an earlier run measured with the same inputs is not measured again; a committed record never counts.",
        epilog="examples:\n"
        "  python -m bench reproduce\n"
        "  python -m bench reproduce --only table6\n"
        "  python -m bench reproduce --limit 4 --seeds 1      a quick look at the whole road\n"
        "  python -m bench reproduce --dry-run                what it takes, without doing it\n"
        "  python -m bench reproduce --accept                 make this run the committed one",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reproduce.add_argument("--profile", default="shapes", help="bench/profiles/<name>.toml (default: %(default)s)")
    reproduce.add_argument(
        "--only",
        type=names,
        metavar="TABLES",
        help=f"tables, comma-separated: {', '.join(TABLES)}",
    )
    reproduce.add_argument("--variants", type=names, help="variants, comma-separated, for example fastflux-10,l1-12")
    reproduce.add_argument("--limit", type=int, help="only so many prompts of each style and task")
    reproduce.add_argument("--seeds", type=int, help="so many images of each prompt")
    reproduce.add_argument("--force", action="store_true", help="measure again what is there already")
    reproduce.add_argument("--accept", action="store_true", help="copy the records and documents to reports/")
    reproduce.add_argument(
        "--rank", action="store_true", help="measure the order of blocks afresh first, instead of the committed one"
    )
    reproduce.add_argument(
        "--dry-run", action="store_true", help="check that everything is there, say what the run takes, and stop"
    )
    add_set(reproduce)
    reproduce.add_argument("--device", help="torch device (default: the profile's)")
    rank = commands.add_parser(
        "rank",
        help="the paper's importance of every block: FID and CLIP score without it",
        description="Draw the calibration prompts without each block in turn, score the images by FID (against the "
        "dense model's) and CLIP score, and order the blocks, least important first. An interrupted run goes on at "
        "its block.",
        epilog="examples:\n"
        "  python -m bench rank\n"
        "  python -m bench rank --samples 4 --accept          make this order the one that the profile prunes in\n"
        "  fastflux prune MODEL --ratio 0.1 --ranking bench/profiles/rankings/shapes.json --prompts prompts.txt -o OUT",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rank.add_argument("--profile", default="shapes", help="bench/profiles/<name>.toml (default: %(default)s)")
    rank.add_argument("--samples", type=int, default=2, help="images of each prompt (default: %(default)s)")
    rank.add_argument("--force", action="store_true", help="measure again what is there already")
    rank.add_argument("--accept", action="store_true", help="copy the order to bench/profiles/rankings/")
    add_set(rank)
    rank.add_argument("--device", help="torch device (default: the profile's)")
    recollection = commands.add_parser(
        "recollection",
        help="what collecting activations costs, against collecting them afresh for every block",
        description="Prune the first blocks of the profile's order twice in one run, with one training step each: as "
        "fastflux does, which keeps what has not changed, and as Algorithm 1 reads, which runs the whole model twice "
        "for every block. Both must give the same weights. The figures go to runs/<profile>/recollection.json.",
        epilog="examples:\n"
        "  python -m bench recollection\n"
        "  python -m bench recollection --samples 64 --blocks 3 --activations disk",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recollection.add_argument("--profile", default="shapes", help="bench/profiles/<name>.toml (default: %(default)s)")
    recollection.add_argument("--blocks", type=int, default=11, help="blocks to replace (default: %(default)s)")
    recollection.add_argument("--samples", type=int, default=512, help="samples to calibrate on (default: %(default)s)")
    recollection.add_argument("--keep", type=int, default=4, help="places that fastflux keeps (default: %(default)s)")
    recollection.add_argument("--activations", choices=("ram", "disk"), default="ram", help="where it keeps them")
    recollection.add_argument("--accept", action="store_true", help="copy the figures to reports/data/recollection/")
    recollection.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    _add_others(commands)
    add_regress(commands)
    add_history(commands)
    _add_full_size(commands)
    return whole


def _add_full_size(commands: Any) -> None:
    """The measurement of FLUX.1-dev's size."""
    size = commands.add_parser(
        "full_size",
        help="FLUX.1-dev's size on one GPU, with random weights: latency, memory, cost of pruning, scorers",
        description="Measure what needs no checkpoint, in pieces that are each kept when they are finished: killed, or "
        "ended by --budget, the same command continues. Pieces and records go to runs/<profile>/. Ends with 0 when "
        "all is measured, 3 when the budget was spent before, 4 when all was taken and some failed (--retry takes that "
        "again), 1 after an error.",
        epilog="examples:\n"
        "  python -m bench full_size --dry-run                     what it needs, against what there is\n"
        "  python -m bench full_size --stages flops                exact, on any machine\n"
        "  python -m bench full_size --budget 540                  again and again, while it ends with 3\n"
        "  python -m bench full_size --stages calibration,prune-20 --offload\n"
        "  python -m bench full_size --accept                      make this run the committed one of its device",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size.add_argument("--profile", default="flux-dev-random", help="bench/profiles/<name>.toml (default: %(default)s)")
    size.add_argument("--stages", type=names, help="stages, comma-separated (default: all; --dry-run lists them)")
    size.add_argument("--budget", type=float, metavar="SECONDS", help="start no piece that may not end in this time")
    size.add_argument("--offload", action="store_true", help="calibrate and prune with the blocks in host memory")
    size.add_argument(
        "--retry",
        action="store_true",
        help="drop what failed and measure it again; of several calls, give it to the first alone",
    )
    size.add_argument("--allow-busy", action="store_true", help="measure although other work takes the GPU")
    size.add_argument("--dry-run", action="store_true", help="show needs and plan, and stop")
    size.add_argument("--accept", action="store_true", help="copy the records and tables to reports/data/full_size/")
    size.add_argument("--device", help="torch device (default: the profile's)")
    size.add_argument("--dtype", help="number format (default: the profile's)")
    size.add_argument("--out", type=Path, help="folder of all runs (default: runs)")
    add_set(size)


def _add_others(commands: Any) -> None:
    """The commands beside the tables: other models' images, and speed in more ways."""
    drawer = commands.add_parser(
        "draw",
        help="draw a profile's prompts with any diffusers pipeline",
        description="Draw the prompts of a profile with a diffusers pipeline that is not pruned here, such as Stable "
        "Diffusion v1.4, from the seeds that the profile's own variants get. `score` measures the images.",
        epilog="examples:\n"
        "  python -m bench draw CompVis/stable-diffusion-v1-4 --profile flux-dev --steps 50 --guidance 7.5 --size 512 "
        "-o sd14\n"
        "  python -m bench draw path/to/FastFLUX-20 -o images       one of your own, on the shapes profile's prompts",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drawer.add_argument("model", help="a pipeline's folder or hub id")
    drawer.add_argument("--steps", type=int, help="sampling steps (default: the profile's)")
    drawer.add_argument("--guidance", type=float, help="guidance scale (default: the profile's)")
    drawer.add_argument("--size", type=int, help="height and width in pixels (default: the profile's)")
    drawer.add_argument("--limit", type=int, help="only so many prompts of each style and task")
    drawer.add_argument("-o", "--out", type=Path, required=True, help="folder of the images and their manifest")
    faster = commands.add_parser(
        "speed",
        help="time variants in more ways than the tables need",
        description="Steps at several batch sizes, compiled steps, whole pipeline calls with the peak memory of each "
        "stage, FLOPs by kind of block; all variants in turn, the dense model among them. Latencies that the device's "
        "arithmetic cannot give are named. Records go to runs/<profile>/speed/.",
        epilog="examples:\n"
        "  python -m bench speed --variants fastflux-20 --batches 1,8,32\n"
        "  python -m bench speed --profile flux-dev --variants fastflux-20 --compile reduce-overhead --end-to-end",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    faster.add_argument("--variants", type=names, required=True, help="variants, comma-separated")
    faster.add_argument(
        "--batches", type=_numbers, default=[1], help="pictures in a step, comma-separated (default: 1)"
    )
    faster.add_argument("--compile", default="", metavar="MODE", help="compiled steps too: default or reduce-overhead")
    faster.add_argument("--end-to-end", action="store_true", help="whole pipeline calls too")
    faster.add_argument("--rounds", type=int, default=20, help="timed rounds (default: %(default)s)")
    faster.add_argument("--require-idle", action="store_true", help="refuse to measure while other work runs")
    scorer = commands.add_parser(
        "score",
        help="score images that are there already",
        description="Score images made by `draw` or elsewhere with the scorers of a profile, without drawing anything. "
        "The record goes to runs/<profile>/external/, and the tables of that profile show it.",
        epilog="examples:\n"
        '  python -m bench score sd14 --name sd14 --label "SD v1.4" --profile flux-dev\n'
        "  python -m bench score dalle --name dalle_mini --profile flux-dev --metrics hps     <style>/00000.jpg ...\n"
        "  python -m bench score geneval_images --name mine --profile flux-dev --metrics geneval    00000/samples/ ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scorer.add_argument("images", type=Path, help="a manifest or its folder, HPS v2's layout, or GenEval's")
    scorer.add_argument("--name", required=True, help="id of the model: letters, digits and _")
    scorer.add_argument("--label", default="", help="the model's name in tables (default: its id)")
    scorer.add_argument("--metrics", type=names, help="metrics, comma-separated (default: the profile's)")
    for command in (drawer, faster, scorer):
        command.add_argument("--profile", default="shapes", help="bench/profiles/<name>.toml (default: %(default)s)")
        add_set(command)
        command.add_argument("--device", help="torch device (default: the profile's)")
