"""Blocks run over batches: offloaded ones come once for many batches, and nothing but the order of the work differs."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from fastflux import workflow
from fastflux.calibration import block_runs, recording
from fastflux.calibration.activations import ActivationStore, KeptStreams, Streams
from fastflux.calibration.least_squares import LinearStatistics
from fastflux.calibration.recording import BlockStates, RecordedInputs, record_inputs, samples_at_once
from fastflux.calibration.statistics import Calibration, Statistics, collect_recorded, collect_statistics
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.sandwich_training import SandwichTrainingConfig
from fastflux.models import offload
from fastflux.models.architecture import architecture_of, example_inputs
from fastflux.models.offload import offload_blocks_
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import BlockRef, Replacement
from fastflux.pruning import prune_
from tests.fastflux.conftest import Drive, Make, make_tiny_flux, run, tiny_inputs
from tests.fastflux.test_sandwich_training import equal

SAMPLES, BATCHES = 32, 8
SIZE = SAMPLES // BATCHES


class Transfers:
    """How often each block was brought to the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._times: Counter[int] = Counter()
        bring = offload._load

        def counted(module: torch.nn.Module) -> None:
            self._times[id(module)] += 1
            bring(module)

        monkeypatch.setattr(offload, "_load", counted)

    def take(self, transformer: Any) -> list[int]:
        """By block, since the last call."""
        chain = architecture_of(transformer).chain(transformer)
        times = [self._times[id(get_block(transformer, block))] for block in chain]
        self._times.clear()
        return times


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> Transfers:
    return Transfers(monkeypatch)


def eight_blocks(*, offloaded: bool) -> Any:
    transformer = make_tiny_flux(num_single_layers=6)
    if offloaded:
        offload_blocks_(transformer, "cpu")
    return transformer


def same(one: KeptStreams, other: KeptStreams) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for first, second in pairs for a, b in zip(first, second, strict=True))


def states_of(transformer: Any, drive: Drive, folder: Path | None = None) -> BlockStates:
    inputs = record_inputs(transformer, drive(transformer), samples=SAMPLES)
    return BlockStates(transformer, inputs, SIZE, store=ActivationStore(folder))


def test_an_offloaded_block_comes_once_for_all_batches(drive: Drive, tmp_path: Path, transfers: Transfers) -> None:
    plain = states_of(eight_blocks(offloaded=False), drive, tmp_path)
    transformer = eight_blocks(offloaded=True)
    states = states_of(transformer, drive, tmp_path)
    blocks = states.blocks
    transfers.take(transformer)  # of the recording
    fresh = BlockStates(transformer, states.inputs, SIZE, store=ActivationStore(tmp_path))
    assert transfers.take(transformer) == [0] * 8, "the embedders need no block"
    assert len(fresh.before(blocks[0])) == BATCHES
    for at, expected in ((5, [1] * 5 + [0] * 3), (7, [0] * 5 + [1, 1, 0]), (5, [0] * 8)):
        assert same(fresh.before(blocks[at]), plain.before(blocks[at]))
        assert transfers.take(transformer) == expected
    assert fresh.store.peak_bytes == plain.store.peak_bytes
    assert fresh.block_forwards == plain.block_forwards == 7 * SAMPLES


def test_blocks_are_where_their_batches_are_and_at_home_behind_them(transfers: Transfers) -> None:
    """Mixed devices would be an error of torch: there is no number on the meta device, but every place is checked."""
    transformer = make_tiny_flux()
    chain = architecture_of(transformer).chain(transformer)
    weights = {name: value.data_ptr() for name, value in transformer.named_parameters() if "blocks" in name}
    offload_blocks_(transformer, "meta")
    batches = [tiny_inputs(transformer, seed) for seed in range(3)]
    there: list[tuple[bool, bool]] = []

    def observe(block: BlockRef, _before: Streams, after: Streams) -> None:
        there.append((next(get_block(transformer, block).parameters()).is_meta, after[0].is_meta))

    found = list(block_runs.run_blocks(transformer, chain, block_runs.enter(transformer, batches), observe))
    assert there == [(True, True)] * (3 * len(chain))
    assert len(found) == 3
    assert transfers.take(transformer) == [1] * len(chain)
    assert {name: value.data_ptr() for name, value in transformer.named_parameters() if "blocks" in name} == weights


def test_an_error_in_a_block_lets_it_go(drive: Drive) -> None:
    transformer = eight_blocks(offloaded=True)
    states = states_of(transformer, drive)
    block = get_block(transformer, states.blocks[1])
    before = block.norm1.linear.weight  # type: ignore[union-attr]

    def fails(_block: BlockRef, _before: Streams, _after: Streams) -> None:
        assert block.norm1.linear.weight is not before  # type: ignore[union-attr]
        raise KeyboardInterrupt

    streams = states.before(states.blocks[1])
    with pytest.raises(KeyboardInterrupt):
        states.through(streams, [states.blocks[1]], fails)
    assert block.norm1.linear.weight is before  # type: ignore[union-attr]
    assert not getattr(block, offload._STAYS), "it comes again for its next forward"


def test_replaced_blocks_between_offloaded_ones_do_not_travel(drive: Drive, transfers: Transfers) -> None:
    transformer = eight_blocks(offloaded=True)
    states = states_of(transformer, drive)
    replace_block_(transformer, Replacement(states.blocks[2], "linear"))
    transfers.take(transformer)
    states.before(states.blocks[4])
    assert transfers.take(transformer) == [1, 1, 0, 1, 0, 0, 0, 0]


def test_no_more_batches_stay_on_the_device_than_have_room(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, transfers: Transfers
) -> None:
    transformer = eight_blocks(offloaded=True)
    states = states_of(transformer, drive)
    block, together = states.blocks[3], []
    wanted = states.before(block)
    run_together = block_runs._run_together

    def watched(_transformer: Any, _blocks: Any, current: list[Streams], *rest: Any) -> None:
        together.append(len(current))
        run_together(_transformer, _blocks, current, *rest)

    monkeypatch.setattr(block_runs, "_run_together", watched)
    batch = wanted.nbytes // BATCHES
    # Without any room it is as if batches were the outer loop: the fault that this module is there to avoid.
    for room, times, batches in ((3 * batch, 3, [3, 3, 2]), (3 * batch - 1, 4, [2] * 4), (0, 8, [1] * 8)):
        monkeypatch.setattr(block_runs, "TOGETHER", room)
        states.invalidate(states.blocks[0])
        transfers.take(transformer)
        together.clear()
        assert same(states.before(block), wanted)
        assert transfers.take(transformer) == [times] * 3 + [0] * 5
        assert together == batches


def test_every_block_sees_the_same_streams_in_the_same_order(drive: Drive) -> None:
    seen: list[dict[BlockRef, list[torch.Tensor]]] = []
    orders: list[list[BlockRef]] = []
    for offloaded in (False, True):
        states = states_of(eight_blocks(offloaded=offloaded), drive)
        found: dict[BlockRef, list[torch.Tensor]] = {}
        order: list[BlockRef] = []

        def observe(block: BlockRef, before: Streams, after: Streams, found: Any = found, order: Any = order) -> None:
            found.setdefault(block, []).extend((*before, *after))
            order.append(block)

        states.through(states.before(states.blocks[1]), states.blocks[1:4], observe)
        seen.append(found)
        orders.append(order)
    assert seen[0].keys() == seen[1].keys()
    for block, tensors in seen[0].items():
        assert len(tensors) == 4 * BATCHES
        assert all(torch.equal(one, other) for one, other in zip(tensors, seen[1][block], strict=True))
    span = list(seen[0])
    assert orders == [span * BATCHES, [block for block in span for _ in range(BATCHES)]]


def equal_statistics(one: Statistics, other: Statistics) -> bool:
    def values(moments: LinearStatistics) -> list[Any]:
        return [torch.as_tensor(value) for value in vars(moments).values()]

    return one.keys() == other.keys() and all(
        torch.equal(a, b)
        for block in one
        for stream in one[block]
        for a, b in zip(values(one[block][stream]), values(other[block][stream]), strict=True)
    )


def test_statistics_of_recorded_samples_are_those_of_whole_forwards(
    make: Make, drive: Drive, transfers: Transfers
) -> None:
    transformer = make()
    inputs = record_inputs(transformer, drive(transformer), samples=SAMPLES)

    def whole() -> None:
        for arguments in inputs.batches(SIZE):
            run(transformer, arguments)

    wanted = collect_statistics(transformer, whole)
    assert equal_statistics(collect_recorded(transformer, inputs, SIZE), wanted)
    offload_blocks_(transformer, "cpu")
    assert equal_statistics(collect_recorded(transformer, inputs, SIZE), wanted)
    times = transfers.take(transformer)
    assert times == [1] * len(times)
    other = {**inputs.rows, "hidden_states": inputs.rows["hidden_states"].flip(0)}  # each with another's text
    assert not equal_statistics(collect_recorded(transformer, RecordedInputs(other, inputs.shared), SIZE), wanted)


def test_pruning_offloaded_brings_each_block_once_a_place(drive: Drive, tmp_path: Path, transfers: Transfers) -> None:
    models, forwards = [], 0
    for offloaded in (False, True):
        transformer = eight_blocks(offloaded=offloaded)
        config = SandwichTrainingConfig(blocks=2, samples=SAMPLES, rank=2, steps=3, batch=4)  # by residual R2
        calibration = Calibration(drive(transformer), folder=tmp_path / str(offloaded), batch_size=SIZE)
        calibration.folder.mkdir()  # type: ignore[union-attr]
        inputs = calibration.inputs(transformer, SAMPLES, 0)
        calibration.inputs = lambda *_, inputs=inputs: inputs  # type: ignore[method-assign, misc]
        original = [get_block(transformer, block) for block in architecture_of(transformer).chain(transformer)]
        transfers.take(transformer)
        prune_(transformer, config, calibration)
        models.append(transformer)
        forwards = calibration.cost.block_forwards
        times = [transfers._times[id(module)] for module in original]
        # Ranking runs all 8 blocks once. After it come at most two walks to a span and two spans.
        assert (max(times) <= 3 and min(times) >= 1) if offloaded else not any(times)
    assert equal(*models)
    assert forwards > 0


def test_samples_at_once_follow_the_tokens(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = make_tiny_flux()
    inputs = record_inputs(transformer, drive(transformer), samples=4)  # of 4 image and 3 text tokens
    assert samples_at_once(transformer, inputs) == recording.MOST_AT_ONCE == 64
    for tokens, samples in ((22, 3), (21, 3), (20, 2), (3, 1)):
        monkeypatch.setattr(recording, "TOKENS_AT_ONCE", tokens)
        assert samples_at_once(transformer, inputs) == samples


def test_what_all_batches_share_is_held_once(drive: Drive) -> None:
    transformer = make_tiny_flux()
    inputs = record_inputs(transformer, drive(transformer), samples=SAMPLES)
    inputs.rows["timestep"].copy_(torch.linspace(0, 1, SAMPLES))
    states = BlockStates(transformer, inputs, SIZE)
    first, last = ([*states.arguments(batch).values()] for batch in (0, BATCHES - 1))
    assert all(given is first[0] for given in first), "all blocks of FLUX are given the same"
    first, last = first[0], last[0]
    assert last["image_rotary_emb"] is first["image_rotary_emb"]
    assert not torch.equal(last["temb"], first["temb"])


@pytest.mark.parametrize(("pixels", "samples"), [(512, 10), (1024, 3), (2048, 1)])
def test_few_samples_of_flux_dev_run_at_once(pixels: int, samples: int) -> None:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    rows = example_inputs(transformer, 2, pixels, pixels, 512, device="meta")
    shared = {name: rows.pop(name) for name in ("img_ids", "txt_ids")}
    assert samples_at_once(transformer, RecordedInputs(rows, shared)) == samples


@pytest.mark.parametrize(
    "config",
    [SandwichTrainingConfig(blocks=2, samples=20, rank=2, steps=3, batch=4), L1NormConfig(0.1, samples=20, steps=2)],
    ids=["sandwich", "l1"],
)
def test_how_many_run_at_once_changes_rounding_alone(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    monkeypatch.setattr(recording, "TOKENS_AT_ONCE", 3 * 7)
    states: list[dict[str, torch.Tensor]] = []
    for size in (None, 3, 64):
        transformer = make_tiny_flux()
        prune_(transformer, config, Calibration(drive(transformer), batch_size=size))
        states.append(transformer.state_dict())
    chosen, three, many = states
    for name, value in chosen.items():
        assert torch.equal(value, three[name]), name
        torch.testing.assert_close(value, many[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("option", "size"), [((), None), (("--batch-size", "5"), 5)])
def test_the_command_hands_its_batch_size_on(
    base: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], size: Any
) -> None:
    found: list[Any] = []

    def planted(_transformer: Any, _config: Any, calibration: Calibration, **_: Any) -> Any:
        found.append(calibration.batch_size)
        raise FastFluxError("far enough")

    monkeypatch.setattr(workflow, "prune_", planted)
    arguments = ["prune", str(base), "--method", "sandwich_training", "--blocks", "1", "--prompts", str(prompts)]
    arguments += ["--samples", "4"]
    assert main([*arguments, *option, "--device", "cpu", "-o", str(tmp_path / "out")]) == 1
    assert found == [size]


def test_no_sample_at_once_cannot_be_meant() -> None:
    with pytest.raises(FastFluxError, match="0 samples are to run at once"):
        Calibration(batch_size=0)
