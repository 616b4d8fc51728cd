"""The disk that a full-size pruning asks for, against the files it writes."""

from pathlib import Path

import pytest
import torch

from bench.profiles.profile import load_profile
from bench.run.units import Budget, Store
from bench.studies.full_size import calibrating, pruning
from bench.studies.full_size.random_weights import Sizes, sizes_of
from bench.studies.full_size.workbench import Workbench
from fastflux.models.flux import FLUX
from tests.bench.full_size.tiny import TINY

DOUBLE, LINEAR = 339_831_296, 18_880_512
"""Parameters of a double block of FLUX.1-dev and of what replaces it."""


def small(folder: Path) -> Workbench:
    """Of eight double and two single blocks, of which two are replaced."""
    changes = {"random.double_blocks": "8", "random.single_blocks": "2", "random.samples": "2"}
    profile = load_profile("flux-dev-random", TINY | changes)
    return Workbench(profile, sizes_of(profile), "cpu", torch.float32, Store(folder), Budget(None))


# Spans of three double blocks; a span in which the block replaced before is a neighbour; single blocks, which are less.
@pytest.mark.parametrize(("first", "second", "most"), [(2, 5, 1.5), (4, 3, 1.5), (9, 8, 4.0)])
def test_the_estimate_covers_the_files_and_little_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int, most: float
) -> None:
    bench = small(tmp_path)
    chain = FLUX.chain(bench.outline)
    order = [chain[first], chain[second], *(block for at, block in enumerate(chain) if at not in (first, second))]
    monkeypatch.setattr(pruning, "_order", lambda _bench: ",".join(map(str, order)))
    before = pruning.need(bench).disk
    assert before == calibrating.statistics_bytes(bench) + pruning.files_bytes(bench)
    pruning._prune(bench)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    written = sum(path.stat().st_size for path in files)
    assert written <= pruning.files_bytes(bench) <= most * written
    # What is written is no longer needed: a run that goes on is not refused for its own files.
    assert pruning.need(bench).disk == before - written
    size = calibrating.statistics_bytes(bench)
    statistics = calibrating.statistics_file(bench)
    statistics.write_bytes(bytes(size))
    assert pruning.need(bench).disk == before - written - size
    statistics.unlink()
    for name in ("_NAMES", "_largest_block"):
        with monkeypatch.context() as patch:
            patch.setattr(pruning, name, 0 if name == "_NAMES" else lambda _bench: 0)
            assert most > 1.5 or pruning.files_bytes(bench) < written, "an estimate without it would be too low"


def test_the_files_of_flux_dev(tmp_path: Path) -> None:
    profile = load_profile("flux-dev-random")
    bench = Workbench(profile, Sizes(), "cuda", torch.bfloat16, Store(tmp_path), Budget(None))
    found = pruning.files_bytes(bench) - 11 * 2**16
    assert found == 2 * (11 * 2 * DOUBLE + sum(range(1, 12)) * LINEAR)
    assert 2.05 < (2 * DOUBLE + LINEAR) / DOUBLE < 2.06, "the largest file when no neighbour is replaced, in blocks"
