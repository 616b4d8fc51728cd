"""A generated sweep of files that others wrote or a disk damaged: read, or refused in one sentence."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.metrics.quality.geneval import read_official_results
from bench.records.results import RunRecord, read_data
from bench.run.units import read_note
from bench.samples.image_set import ImageSet
from bench.samples.layouts import read_benchmark_prompts, read_geneval_folder, read_metadata
from bench.samples.prompts import read_prompts
from fastflux.calibration.prompts import read_prompts as read_texts
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import read_json, read_ranking
from fastflux.plan import PruningPlan

MUTATIONS = 120
VALUES: list[Any] = [
    *(None, 0, -1, 1.5, 10**30, True, "", "x", "a/b", "..", "\ud800", "\u2028", "\x00", "x" * 300, float("nan"), 1e400),
    *([], [1], [[]], ["a", "b"], {}, {"a": 1}, "/etc/passwd", "\u202e"),
]
WANTED = {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]}
LINE = {**WANTED, "prompt": "a dog"}
IMAGE = {"file": "a.png", "prompt_id": "p", "sample": 0, "seed": 1, "set": "geneval", "prompt": "a", "metadata": WANTED}
VERDICT = {
    "filename": "00000/samples/00000.png", "tag": "colors", "prompt": "a dog", "correct": True, "reason": "",
    "metadata": json.dumps(LINE),
}  # fmt: skip
NOTE = {"inputs": {"a": 1}, "results": {}, "seconds": 1.0, "created": "x", "files": {}, "sha256": ""}
RECORD: Any = {
    "profile": "p", "variant": "dense", "label": "D", "base_model": "b", "base_revision": "r", "environment": {},
    "sampling": {"a": [1]}, "created": "2026-01-01T00:00:00+00:00", "inputs": {}, "schema_version": 2,
    "plan": PruningPlan("b", "r", "block_removal", {"blocks": 1}, ()).to_json(),
    "measurements": [{
        "info": {"name": "hps", "version": "1", "unit": "", "higher_is_better": True, "reference": ""},
        "status": "ok", "values": {"a": 1.0}, "intervals": {"a": [0.5, 1.5]}, "samples": {"s/p": [1.0]},
    }],
}  # fmt: skip
READERS: dict[str, tuple[Any, str, Callable[[Path], object]]] = {
    "manifest": (IMAGE, "manifest.jsonl", ImageSet.read),
    "prompts": ({"id": "p", "set": "geneval", "prompt": "a", "metadata": WANTED}, "prompts.jsonl", read_prompts),
    "texts": ({"prompt": "a"}, "texts.jsonl", read_texts),
    "list of texts": (["a", {"text": "b"}], "texts.json", read_texts),
    "metadata": (LINE, "metadata.jsonl", read_metadata),
    "folder": (LINE, "00000/metadata.jsonl", lambda path: read_geneval_folder(path.parents[1])),
    "benchmark": (["a", "b"], "anime.json", lambda path: read_benchmark_prompts(path.parent, ("anime",))),
    "verdicts": (VERDICT, "results.jsonl", read_official_results),
    "ranking": ({"blocks": [{"block": "transformer_blocks.0"}]}, "ranking.json", read_ranking),
    "record": (RECORD, "record.json", lambda path: read_data(RunRecord, read_json(path), "it")),
    "plan": (RECORD["plan"], "plan.json", lambda path: PruningPlan.from_json(read_json(path))),
    "note": (NOTE, "note.json", read_note),
}


def places(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all that data holds."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield (*above, key)
        yield from places(value, (*above, key))


def damaged(data: Any, chance: random.Random) -> bytes:
    """The data as JSON, with another value in a place, without it, cut, or with another byte."""
    data = copy.deepcopy(data)
    *way, last = chance.choice(list(places(data)))
    place = data
    for key in way:
        place = place[key]
    kind = chance.randrange(6)
    if kind == 0 and isinstance(place, dict):
        del place[last]
    elif kind < 4:
        place[last] = chance.choice(VALUES)
    text = bytearray(json.dumps(data, ensure_ascii=chance.random() < 0.3).encode("utf-8", "surrogatepass"))
    if kind == 4:
        return bytes(text[: chance.randrange(len(text))])
    if kind == 5:
        text[chance.randrange(len(text))] = chance.randrange(256)
    return bytes(text)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    data, file, read = READERS[name]
    path = tmp_path / file
    (path.parent / "samples").mkdir(parents=True)
    (path.parent / "samples" / "00000.png").touch()
    path.write_text(json.dumps(data))
    read(path)
    chance = random.Random(0)  # noqa: S311
    for _ in range(MUTATIONS):
        path.write_bytes(damaged(data, chance))
        said = ""
        try:
            read(path)
        except FastFluxError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"{path.read_bytes()!r} ends in {error!r}") from error
        assert "\n" not in said
