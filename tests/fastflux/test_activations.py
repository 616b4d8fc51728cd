"""Activations in RAM and on disk: the same bits, bounded, counted, and gone in the end however it comes."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fastflux.calibration.activations import ActivationStore, KeptStreams, Streams
from fastflux.calibration.recording import BlockStates, record_inputs
from fastflux.calibration.statistics import Calibration
from fastflux.errors import FastFluxError
from fastflux.methods.sandwich_training import SandwichTrainingConfig
from fastflux.methods.sandwich_training import method as sandwich_training
from fastflux.plan import BlockRef
from fastflux.pruning import prune_
from tests.fastflux.conftest import DiesAtTheThird, Drive, make_tiny_flux
from tests.fastflux.test_sandwich_training import equal

CONFIG = SandwichTrainingConfig(blocks=3, ranking="random", samples=20, steps=2, rank=2, batch=8)


def batches(dtype: torch.dtype = torch.float32) -> list[Streams]:
    """Two batches of 3 samples and one of 1."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return [(draw(rows, 4, 5), draw(rows, 2, 5)) for rows in (3, 3, 1)]


def stores(folder: Path) -> list[ActivationStore]:
    return [ActivationStore(), ActivationStore(folder)]


def open_files(folder: Path) -> list[str]:
    """Files below the folder that this process holds open, though they have no names any more."""
    links = list(Path("/proc/self/fd").iterdir())
    targets = [str(link.readlink()) for link in links if link.is_symlink()]
    return [target for target in targets if target.startswith(str(folder))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_kept_comes_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    given = batches(dtype)
    rows = torch.tensor([6, 0, 4, 4, 2])
    for store in stores(tmp_path):
        kept = store.keep(iter(given))
        assert (len(kept), kept.samples) == (3, 7)
        for place, pair in enumerate(kept):
            assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(pair, given[place], strict=True))
        for stream, found in enumerate(kept.rows(rows)):
            assert torch.equal(found, torch.cat([pair[stream] for pair in given])[rows])


def test_bytes_are_counted_until_nobody_needs_them(tmp_path: Path) -> None:
    size = 7 * (4 + 2) * 5 * 4
    for store in stores(tmp_path):
        with store:
            first, second = store.keep(batches()), store.keep(batches())
            assert (store.bytes_held, first.nbytes) == (2 * size, size)
            del first
            assert (store.bytes_held, store.peak_bytes) == (size, 2 * size)
            store.restart()
            assert store.peak_bytes == size
        assert store.bytes_held == 0, "leaving lets go of all"
        second.close()  # a second time harms nothing
        assert store.bytes_held == 0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list a process' files")
def test_files_have_no_names_and_go_with_the_last_reference(tmp_path: Path) -> None:
    with ActivationStore(tmp_path) as store:
        kept = store.keep(batches())
        assert len(open_files(tmp_path)) == 1
        assert list(tmp_path.iterdir()) == [], "a process that is killed leaves nothing"
        del kept
        assert open_files(tmp_path) == []
        kept = store.keep(batches())
    assert open_files(tmp_path) == []
    with pytest.raises(ValueError, match="let go"):
        kept.append(batches()[0])


def prune(drive: Drive, folder: Path | None = None, **settings: Any) -> tuple[Any, Calibration]:
    transformer = make_tiny_flux()
    calibration = Calibration(drive(transformer), folder=folder, batch_size=8, **settings)
    prune_(transformer, CONFIG, calibration)
    return transformer, calibration


def test_ram_and_disk_give_the_same_bits(drive: Drive, tmp_path: Path) -> None:
    ram, in_ram = prune(drive)
    disk, on_disk = prune(drive, tmp_path, activations="disk")
    assert equal(ram, disk)
    assert in_ram.cost.activation_bytes == on_disk.cost.activation_bytes
    assert in_ram.cost.block_forwards == on_disk.cost.block_forwards
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".safetensors"]


def test_fewer_places_hold_less_run_more_and_change_nothing(drive: Drive) -> None:
    (usual, many), (sparing, none) = prune(drive), prune(drive, activations="disk", keep=0)
    assert equal(usual, sparing)
    assert none.cost.activation_bytes < many.cost.activation_bytes
    assert none.cost.block_forwards > many.cost.block_forwards


@pytest.mark.parametrize("keep", [0, 1, 4])
def test_no_more_places_are_held_than_were_asked_for(drive: Drive, keep: int) -> None:
    transformer = make_tiny_flux()
    states = BlockStates(transformer, record_inputs(transformer, drive(transformer), samples=16), 8, keep)
    place = states.before(states.blocks[0]).nbytes
    for block in (*states.blocks, *states.blocks[::-1]):
        states.before(block)
    assert states.store.bytes_held == (1 + keep) * place
    assert states.store.peak_bytes <= (1 + keep + 1) * place


def test_training_on_disk_reads_the_rows_it_needs(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    plain = KeptStreams.rows

    def watched(self: KeptStreams, rows: torch.Tensor) -> Streams:
        nonlocal largest
        found = plain(self, rows)
        largest = max(largest, len(found[0]))
        return found

    def refuse(self: KeptStreams, batch: int) -> Streams:
        raise AssertionError("whole batches are not needed here")

    real = sandwich_training.train_sandwich_

    def train(*arguments: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(KeptStreams, "__getitem__", refuse)
            return real(*arguments, **options)

    monkeypatch.setattr(KeptStreams, "rows", watched)
    monkeypatch.setattr(sandwich_training, "train_sandwich_", train)
    prune(drive, tmp_path, activations="disk")
    assert largest == 8, "a batch, not all 20 samples"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list a process' files")
def test_an_error_leaves_no_file_open(drive: Drive, tmp_path: Path, dies_at_the_third: DiesAtTheThird) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        prune(drive, tmp_path, activations="disk")
    assert caught.tb is not None, "which still refers to the streams"
    assert [name for name in open_files(tmp_path) if not name.endswith(".safetensors")] == []


def test_a_full_disk_is_one_sentence(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, stream: torch.Tensor) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(self, "_open", _Full)
            return put(self, stream)

    from fastflux.calibration import activations

    put = activations._OnDisk._put
    monkeypatch.setattr(activations._OnDisk, "_put", full)
    with pytest.raises(FastFluxError, match=r"Cannot keep activations .*: No space left on device; free some space"):
        prune(drive, tmp_path, activations="disk")


class _Full:
    def seek(self, *_: int) -> int:
        return 0

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_settings_that_cannot_be_meant_come_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="did you mean 'disk'"):
        Calibration(activations="disc")
    with pytest.raises(FastFluxError, match="at -1 places"):
        Calibration(keep=-1)
    with pytest.raises(FastFluxError, match=r"absent: No such file or directory"):
        ActivationStore(tmp_path / "absent").keep([])


def test_a_block_that_changes_is_forgotten_on_disk_too(drive: Drive, tmp_path: Path) -> None:
    transformer = make_tiny_flux()
    inputs = record_inputs(transformer, drive(transformer), samples=16)
    states = BlockStates(transformer, inputs, 8, store=ActivationStore(tmp_path))
    place = states.before(BlockRef("transformer_blocks", 0)).nbytes
    states.before(states.blocks[3])
    states.invalidate(states.blocks[1])
    assert states.store.bytes_held == place
