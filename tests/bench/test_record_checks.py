"""Records check themselves: what was edited is noticed by the digest, and what cannot be so by what follows from it."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.record_checks import check_records
from bench.records.results import RecordError, RunRecord, read_data, record_text
from bench.regression.history import read_history
from reports.rebuild import NAME, PACKAGE, require_manifest, write_manifest

Edit = Callable[[dict[str, dict[str, Any]]], object]

COMMITTED = PACKAGE / "data" / "results" / "cpu" / "shapes"
NAMES = ("dense", "fastflux-10", "fastflux-20", "seed1-10", "l1-12")


@cache
def texts() -> dict[str, str]:
    return {name: record_text(".json.gz", (COMMITTED / f"{name}.json.gz").read_bytes()) for name in NAMES}


def leaves(data: Any) -> list[tuple[Any, Any]]:
    """Every container with a key of it whose value is no container."""
    items = list(data.items() if isinstance(data, dict) else enumerate(data))
    found = [(data, key) for key, value in items if not isinstance(value, dict | list)]
    return found + [leaf for _, value in items if isinstance(value, dict | list) for leaf in leaves(value)]


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 1.001 + 1e-6
    return f"{value}x"


def test_twenty_random_edits_are_all_noticed() -> None:
    generator = random.Random(0)  # noqa: S311  # no secret
    for _ in range(20):
        name = generator.choice(NAMES)
        data = json.loads(texts()[name])
        container, key = generator.choice(leaves(data))
        if isinstance(container, dict) and generator.random() < 0.2:
            del container[key]
        else:
            container[key] = changed(container[key])
        with pytest.raises(RecordError, match=rf"{name}\.json"):
            RunRecord.from_json(json.dumps(data), f"{name}.json")


def measurement(records: dict[str, dict[str, Any]], variant: str, metric: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in records[variant]["measurements"] if one["info"]["name"] == metric)
    return found


def edit(variant: str, metric: str, part: str, key: str, value: Any) -> Edit:
    return lambda records: measurement(records, variant, metric)[part].update({key: value})


def swapped(records: dict[str, dict[str, Any]]) -> None:
    """The costs of two variants change places."""
    for metric in ("flops", "parameters"):
        ours, theirs = (measurement(records, variant, metric) for variant in ("fastflux-10", "fastflux-20"))
        ours["values"], theirs["values"] = theirs["values"], ours["values"]


HPS = "anime/hps-anime-000"
FAULTS: dict[str, tuple[Edit, str]] = {
    "value": (edit("fastflux-10", "hps", "values", "averaged", 99.99), "fastflux-10, hps.averaged is 99.99"),
    "interval": (edit("dense", "hps", "intervals", "photo", [1.0, 2.0]), "dense, hps.photo, interval"),
    "sample": (edit("dense", "hps", "samples", HPS, [1.0]), "dense, hps."),
    "removed sample": (lambda all_: measurement(all_, "dense", "hps")["samples"].pop(HPS), "dense, hps.scored is 256"),
    "out of range": (edit("l1-12", "geneval", "values", "overall", 1.7), "l1-12, geneval.overall is 1.7, outside 0"),
    "scored": (lambda all_: measurement(all_, "dense", "clip_score").update(scored=3), "dense, clip_score.scored is 3"),
    "PSNR": (edit("l1-12", "paired", "values", "psnr", 40.0), "l1-12, paired.psnr is 40"),
    "latency": (edit("l1-12", "latency", "values", "p90_ms", 1.0), "l1-12, latency.p90_ms"),
    "latency's ratio": (edit("l1-12", "latency", "values", "ratio_to_dense", 0.5), "l1-12, latency.ratio_to_dense"),
    "FLOPs": (edit("seed1-10", "flops", "values", "forward", 1e8), "seed1-10, flops.ratio_to_dense"),
    "FLOPs and ratio": (
        lambda all_: measurement(all_, "seed1-10", "flops").update(
            values={"forward": 85739520.0, "ratio_to_dense": 0.5}
        ),
        "seed1-10, flops.forward or plan.replacements",
    ),
    "swapped": (swapped, "flops.forward or plan.replacements"),
    "plan": (
        lambda all_: all_["fastflux-20"]["plan"].update(replacements=all_["fastflux-20"]["plan"]["replacements"][:1]),
        "fastflux-20, flops.forward or plan.replacements",
    ),
    "base revision": (lambda all_: all_["l1-12"].update(base_revision="0"), "l1-12, plan.base_revision"),
    "base revision of dense": (lambda all_: all_["dense"].update(base_revision="0"), "base_revision is"),
    "prompts": (lambda all_: all_["l1-12"]["sampling"].update(prompts="0"), "l1-12, sampling.prompts is 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_follow_from_the_rest_is_refused_by_record_and_field(fault: str) -> None:
    records = {name: json.loads(text) for name, text in texts().items()}
    planted, told = FAULTS[fault]
    planted(records)
    for data in records.values():
        del data["digest"]
    read = [read_data(RunRecord, data, "it") for data in records.values()]
    with pytest.raises(RecordError) as raised:
        check_records(read)
    assert told in str(raised.value)


def test_the_manifest_names_what_was_changed_added_or_lost(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "cpu" / "shapes"
    folder.mkdir(parents=True)
    for name in ("dense", "l1-12"):
        (folder / f"{name}.json").write_text(texts()[name], encoding="utf-8")
    write_manifest(tmp_path)
    assert not (folder / "dense.json").exists()
    assert RunRecord.read(folder / "dense.json.gz").to_json() == texts()["dense"]
    require_manifest(tmp_path)
    for _ in range(2):  # once for all
        (point,) = read_history([tmp_path / "regression" / "history.jsonl"])
        assert point.values.keys() == {"dense", "l1-12"}
        write_manifest(tmp_path)
    (folder / "new.json").write_text(texts()["dense"], encoding="utf-8")
    (folder / "l1-12.json.gz").unlink()
    with pytest.raises(Exception, match=rf"results/cpu/shapes/l1-12.json.gz, .*/new.json in .* are not as {NAME} says"):
        require_manifest(tmp_path)
