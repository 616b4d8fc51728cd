"""The model card of an exported pipeline: the README.md that the Hugging Face hub shows."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]  # huggingface_hub's own reader of the metadata raises its errors
from huggingface_hub import ModelCardData, metadata_load
from torch import nn

from fastflux.calibration.trajectories import CalibrationRun
from fastflux.io.checkpoint import is_hub_id
from fastflux.methods.registry import pruning_method
from fastflux.models.architecture import architecture_of, config_of
from fastflux.models.pruned import parameter_count, pruned_class_of
from fastflux.plan import JSON, REPLACEMENT_KINDS, PruningPlan

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2506.10035"
PREVIOUS_CARDS = re.compile(r"README\.previous(-\d+)?\.md")
_LICENCE_FILES = re.compile(r"(LICEN[CS]E|NOTICE|COPYING)([-_.].*)?", re.IGNORECASE)

_MEANINGS = (
    "by linear layers",
    "by their shortcut alone",
    "attention by linear layers",
    "MLP by linear layers",
    "attention and MLP by linear layers",
)
_LOADING = """## How to load it

```python
import fastflux  # makes the pruned transformer's class known to diffusers
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("path/to/this/folder")
```

Without `import fastflux`, `{pipeline}.from_pretrained` stops with an error; it does not draw wrong images."""

_SEAL = "<!-- Written by FastFLUX; sha256 of the text above: {digest} -->"
_SEALED = re.compile(re.escape(_SEAL).replace(r"\{digest\}", "([0-9a-f]{64})") + r"\s*\Z")


def model_card(
    transformer: nn.Module,
    plan: PruningPlan,
    base_folder: Path,
    calibration: CalibrationRun[Any] | None = None,
    pipeline_class: str = "",
) -> str:
    """The card's text, YAML front matter first.

    ``base_folder`` is the dense pipeline's; licence and licence file are its. ``calibration`` is what the pruning ran
    on, where it is known, ``pipeline_class`` the pipeline's where it is not the family's usual one. Figures are those
    of ``transformer`` and of its dense skeleton; nothing else is claimed.
    """
    architecture = architecture_of(transformer)
    metadata, licence = _licence(base_folder)
    data = ModelCardData(
        base_model=plan.base_model if is_hub_id(plan.base_model) else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["fastflux", "pruned", architecture.name.lower()],
        **metadata,
    )
    base = _code(plan.base_model) if plan.base_model else "a model whose name was not recorded"
    what = (
        f"A text-to-image pipeline: {base} with its transformer pruned by the library FastFLUX, which implements "
        f"[FastFLUX: Pruning FLUX with Block-wise Replacement and Sandwich Training]({PAPER}). "
        "All other components are those of the base model."
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {base[0].upper()}{base[1:]}, pruned",
        what,
        "## Pruning plan\n\n" + "\n".join(_plan(transformer, plan)),
        "## Calibration\n\n" + _calibration(plan, calibration),
        "## Measured\n\n" + "\n".join(_figures(transformer)),
        _LOADING.format(pipeline=pipeline_class or architecture.pipeline_classes[0]),
        f"## Licence\n\n{licence}",
    ]
    text = "\n\n".join(parts) + "\n"
    text = text.encode(errors="replace").decode()  # a folder's name may hold bytes that are no UTF-8
    return f"{text}\n{_SEAL.format(digest=hashlib.sha256(text.encode()).hexdigest())}\n"


def keep_foreign_cards(old: Path, new: Path) -> None:
    """Copy what people wrote from a folder about to be replaced: its README.md goes on as README.previous.md.

    A card as FastFLUX wrote it is not copied, nor one that the new folder has too: the new one stands for it.
    """
    for earlier in sorted(old.glob("README.previous*.md")):
        shutil.copy2(earlier, new / earlier.name)
    if not (old / CARD).is_file() or _is_untouched(old / CARD):
        return
    if not (new / CARD).is_file() or (new / CARD).read_bytes() != (old / CARD).read_bytes():
        name, number = "README.previous.md", 2
        while (new / name).exists():
            name, number = f"README.previous-{number}.md", number + 1
        shutil.copy2(old / CARD, new / name)


def _is_untouched(card: Path) -> bool:
    text = card.read_text(encoding="utf-8", errors="replace")
    seal = _SEALED.search(text)
    return seal is not None and hashlib.sha256(text[: seal.start() - 1].encode()).hexdigest() == seal[1]


def licence_files(base: Path) -> list[Path]:
    """The files of a folder that hold its licence and notices: those of such names, and what its card links to."""
    files = [path for path in sorted(base.iterdir()) if path.is_file() and path.name != CARD]
    linked = _card_data(base / CARD).get("license_link")
    return [path for path in files if _LICENCE_FILES.fullmatch(path.name) or path.name == linked]


def _licence(base: Path) -> tuple[dict[str, Any], str]:
    """The licence's metadata and its sentence, from the base folder's card or else its licence file."""
    files = [path.name for path in licence_files(base)]
    file = next((name for name in files if name.upper().startswith("LICEN")), None)
    text = "This model derives from the base model, so the base model's licence applies"
    found = _card_data(base / CARD)
    if "license" in found:
        link = str(found.get("license_link", ""))
        if link and "://" not in link and link not in files:
            del found["license_link"]  # it would lead nowhere: only what lies in the folder is copied
        names = " / ".join(_code(str(found[key])) for key in ("license", "license_name") if key in found)
        return found, f"{text}: {names}{f' ([{file}]({file}))' if file else ''}."
    if file:
        return {"license": "other", "license_link": file}, f"{text}: see [{file}]({file})."
    return {}, f"{text}; it was not found in the base model's folder."


def _card_data(path: Path) -> dict[str, Any]:
    """What a card says of its licence; nothing when there is no card or it cannot be read."""
    try:
        found = metadata_load(path) or {}
    except (OSError, ValueError, yaml.YAMLError):  # a strange card must not spoil the export at its very end
        return {}
    names = ("license", "license_name", "license_link")
    return {name: found[name] for name in names if isinstance(found.get(name), str)}


def _plan(transformer: nn.Module, plan: PruningPlan) -> Iterator[str]:
    yield f"- Method: {_code(plan.method)}"
    settings = ", ".join(
        f"{_code(name)} {_code(_shown(value))}" for name, value in plan.config.items() if value is not None
    )
    yield f"- Settings: {settings or 'none'}"
    order = architecture_of(transformer).chain(transformer)
    yield f"- Blocks replaced: {len(plan.replacements)} of {len(order)}"
    kinds = {item.block: item.kind for item in plan.replacements}
    for kind, meaning in zip(REPLACEMENT_KINDS, _MEANINGS, strict=True):
        for stack in dict.fromkeys(block.stack for block in order):
            if indices := [block.index for block in order if block.stack == stack and kinds.get(block) == kind]:
                yield f"  - {_code(stack)} {_ranges(indices)}: {meaning}"
    yield f"- Base revision: {_code(plan.base_revision) if plan.base_revision else 'not recorded'}"
    yield f"- Plan hash: {_code(plan.hash)}"


def _shown(value: JSON) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ranges(indices: list[int]) -> str:
    """Ascending indices in short: ``0, 3-5``."""
    runs = [[index for _, index in run] for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _calibration(plan: PruningPlan, calibration: CalibrationRun[Any] | None) -> str:
    if calibration is not None:
        return f"On {calibration.source}, guidance {calibration.guidance:g}, noise from seed {calibration.seed} on."
    config_class = pruning_method(plan.method).config_class
    names = {field.name for field in fields(config_class)}
    config = config_class(**{name: value for name, value in plan.config.items() if name in names})
    return "It was not recorded." if config.needs_statistics else "None: the method looks at weights or order alone."


def _figures(transformer: nn.Module) -> Iterator[str]:
    pruned, dense = parameter_count(transformer), _dense_parameters(transformer)
    yield f"- Transformer parameters: {pruned:,} of the dense model's {dense:,} ({pruned / dense:.1%})"
    yield "- Image quality and speed: not measured by the export"


def _dense_parameters(transformer: nn.Module) -> int:
    config = {**config_of(transformer), "pruning_plan": None}
    with torch.device("meta"):
        return parameter_count(pruned_class_of(architecture_of(transformer)).from_config(config))


def _code(text: str) -> str:
    """A Markdown code span that shows any text as it is, line breaks as spaces."""
    text = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"
