"""The engine of a run: its graph as data, what starts when, and workers on Ray that die, leave or do as one would."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from bench.profiles.profile import load_profile
from bench.profiles.variants import chosen_variants
from bench.run import cluster
from bench.run.base_model import BaseModel
from bench.run.cluster import TRIES, Pool
from bench.run.evaluate import board_of
from bench.run.folders import locked
from bench.run.graph import Extent, Node, Schedule, graph_of, simulate, wanted
from bench.tables import TABLES, needed_by
from fastflux.calibration.statistics import collect_statistics, save_statistics
from fastflux.calibration.trajectories import Trajectories
from fastflux.errors import FastFluxError
from tests.bench.stand_in_workers import Blind, Stand
from tests.fastflux.tiny_pipeline import write_tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]


def graph(*, pictures: int = 832, tables: tuple[str, ...] = tuple(TABLES), shared: bool = True) -> list[Node]:
    profile = load_profile("shapes")
    variants = chosen_variants(profile, needed_by(tables))
    return graph_of(profile, variants, Extent(pictures, 128, 57, ("a.1",), 10), shared=shared)


def order(nodes: list[Node]) -> list[str]:
    """Keys in the order in which one worker settles them."""
    schedule, found = Schedule(nodes), []
    while (node := schedule.start()) is not None:
        found.append(node.key)
        schedule.finish(node)
    assert schedule.ended
    return found


def test_every_unit_comes_once_and_behind_what_it_needs() -> None:
    nodes = graph()
    keys = [node.key for node in nodes]
    assert len(set(keys)) == len(keys)
    assert order(nodes) == keys
    for place, node in enumerate(nodes):
        assert {*node.needs, *node.after} <= {*keys[:place]}, node.key


def test_progress_that_is_shared_is_one_chain() -> None:
    nodes = {node.key: node for node in graph()}
    chain = ["prune:reuse-10"]
    while before := nodes[chain[-1]].after:
        chain += before
    assert chain == ["prune:reuse-10", *(f"prune:fastflux-{ratio:02}" for ratio in (30, 25, 20, 15, 10, 5))]
    assert nodes["prune:l1-21"].after == nodes["prune:layers5-10"].after == ()
    assert nodes["prune:plus-26"].after == nodes["prune:plus-35"].after == ("prune:plus-18",)
    assert nodes["prune:seed1-20"].after == ("prune:seed1-15",)


def test_the_first_tables_are_whole_before_the_others_begin() -> None:
    keys = order(graph())
    end = keys.index("measure:")
    first = {"dense", *(f"fastflux-{ratio:02}" for ratio in (5, 10, 15, 20, 25, 30)), "l1-12", "l1-21", "l1-27"}
    first |= {"plus-18", "plus-26", "plus-35"}
    assert {key.partition(":")[2] for key in keys[:end] if key.startswith("draw:")} == first
    assert keys[end + 1].startswith("equal_latency:")


def test_many_pictures_are_drawn_in_parts() -> None:
    nodes = {node.key: node for node in graph(pictures=1500, tables=("table4",))}
    assert nodes["draw:dense"].needs == ("draw_part:dense#1", "draw_part:dense#2")
    assert nodes["draw_part:brll-10#2"].needs == ("prune:brll-10",)
    assert sum(node.steps for key, node in nodes.items() if key.startswith("draw") and "dense" in key) == 15000


@pytest.mark.parametrize(
    ("trajectories", "forwards"),
    [(2, (1 + 57 * 2) * 2 * 10), (0, (1 + 57 * 2 / 2) * 64)],  # two kinds in each block; half of a step on the average
)
def test_what_chooses_the_blocks_of_fastflux_plus_is_counted(trajectories: int, forwards: float) -> None:
    settings = {"kinds": "linear,linear_mlp", "keep": "", "scored": 64, "fitted": 0, "samples": 100, "steps": 0}
    settings["trajectories"] = trajectories
    profile = load_profile("shapes", {f"methods.sublayer_replacement.{key}": f"{settings[key]}" for key in settings})
    variants = chosen_variants(profile, needed_by(["beyond"]))
    nodes = graph_of(profile, variants, Extent(8, 128, 57), shared=True)
    steps = {node.key: node.steps for node in nodes if node.key.startswith("prune:plus")}
    assert steps == {"prune:plus-18": 100 + forwards, "prune:plus-26": 100, "prune:plus-35": 100}


def test_what_runs_alone_runs_alone() -> None:
    free, alone, later = Node("draw", "a"), Node("measure", "", alone=True), Node("draw", "b")
    schedule = Schedule([free, alone, later])
    assert schedule.start() is free
    assert schedule.start() is None
    schedule.finish(free)
    assert schedule.start() is alone
    assert schedule.start() is None
    schedule.finish(alone)
    assert schedule.start() is later


def test_what_needs_a_failed_unit_fails_with_its_reason_and_what_comes_after_goes_on() -> None:
    pruned, drawn = Node("prune", "a"), Node("draw", "a", needs=("prune:a",))
    scored, other = Node("score", "a,hps", needs=("draw:a",)), Node("prune", "b", after=("prune:a",))
    schedule = Schedule([pruned, drawn, scored, other])
    schedule.fail(schedule.start() or pruned, "no room")
    reason = "prune a failed: no room"
    assert schedule.failures == {"prune:a": "no room", "draw:a": reason, "score:a,hps": f"draw a failed: {reason}"}
    assert schedule.start() is other


def test_only_what_the_goals_need_is_made_again() -> None:
    nodes = [
        Node("calibration", ""),
        Node("prune", "a", needs=("calibration:",)),
        Node("draw", "a", needs=("prune:a",)),
    ]
    state = {"calibration:": False, "prune:a": True, "draw:a": False}
    assert [node.key for node in wanted(nodes, state, ("prune", "draw"))] == ["draw:a"]
    assert wanted(nodes, state | {"prune:a": False}, ("prune", "draw")) == nodes
    assert not wanted(nodes, state, ("prune",))


def test_more_workers_are_faster_until_the_longest_chain_is_what_it_takes() -> None:
    nodes = graph(pictures=5412, shared=False)
    hours = [simulate(nodes, workers, 0.1) / 3600 for workers in (1, 8, 64, 4096)]
    assert hours[0] == pytest.approx(sum(node.steps for node in nodes) * 0.1 / 3600)
    assert hours[0] / 8 <= hours[1] < hours[0] / 7
    assert hours[1] > hours[2] >= hours[3] > 0


def test_a_killed_calibration_goes_on_behind_its_last_part_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Path(load_profile("shapes").calibration_prompts).read_text().splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(lines[:4]))
    write_tiny_pipeline(tmp_path / "pipeline")
    changes = {
        "pipeline": str(tmp_path / "pipeline"),
        "calibration.steps": "1",
        "calibration.batch": "1",
        "calibration_prompts": str(tmp_path / "prompts.jsonl"),
    }
    base = BaseModel(load_profile("shapes", changes), tmp_path / "runs")
    ran: list[str] = []

    def sampled(self: Trajectories, plain: Any = Trajectories._sampled) -> Any:
        for latents in plain(self):
            if len(ran) == 2:
                raise KeyboardInterrupt
            ran.append(self.data[0])
            yield latents

    with monkeypatch.context() as dies:
        dies.setattr(Trajectories, "_sampled", sampled)
        with pytest.raises(KeyboardInterrupt):
            _ = base.statistics
    assert list(base.progress.iterdir()), "two parts are done"
    ran[:] = [""] * 3
    with monkeypatch.context() as counts:
        counts.setattr(Trajectories, "_sampled", sampled)
        _ = base.statistics
    assert len(ran) == 5
    assert not list(base.progress.iterdir())
    save_statistics(collect_statistics(base.pipeline.transformer, base.drive), tmp_path / "whole")
    (kept,) = base.calibration_unit.files
    assert kept.read_bytes() == (tmp_path / "whole").read_bytes()


# -- workers that settle nothing but leave a mark, on two nodes


@pytest.fixture(scope="module")
def nodes_of_ray() -> Iterator[Any]:
    """A cluster whose nodes have a core each, but for the head, which has none."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ.update(PYTHONPATH=str(ROOT), RAY_USAGE_STATS_ENABLED="0")
    small = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    workers = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield ray, cluster, workers
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_workers_that_die_and_nodes_that_leave_cost_their_units_alone(nodes_of_ray: Any, tmp_path: Path) -> None:
    ray, cluster, workers = nodes_of_ray
    names = ["dies once", "dies for good", "fails", *(f"long {number}" for number in range(8))]
    schedule = Schedule([*(Node("prune", name) for name in names), Node("draw", "fails", needs=("prune:fails",))])
    done: list[str] = []

    def finish(node: Node, _seconds: float) -> None:
        done.append(node.name)
        if node.name == "long 1":
            cluster.remove_node(workers.pop())

    with board_of(schedule) as board:
        Pool(ray, ray.remote(num_cpus=1)(Stand), tmp_path, schedule, board, finish).run(2)
    assert sorted(done) == sorted([name for name in names if name not in {"dies for good", "fails"}])
    assert schedule.failures == {
        "prune:dies for good": f"its worker died {TRIES} times, as for lack of memory",
        "prune:fails": "no room",
        "draw:fails": "prune fails failed: no room",
    }
    assert len((tmp_path / "prune:long 0").read_text().split()) == 1, "what was done is not done again"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_cannot_take_part_says_why(nodes_of_ray: Any, tmp_path: Path) -> None:
    ray, schedule = nodes_of_ray[0], Schedule([Node("prune", "a")])
    with board_of(schedule) as board, pytest.raises(FastFluxError, match="node7 does not see"):
        Pool(ray, ray.remote(num_cpus=1)(Blind), tmp_path, schedule, board, lambda *_: None).run(1)


def test_without_ray_one_worker_does_it_all_and_none_are_promised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _name: None)
    here: Any = SimpleNamespace(on_cpu=True)
    assert cluster.local_workers(here, None) == 1
    assert "fastflux[cluster]" in capsys.readouterr().err
    with pytest.raises(FastFluxError, match="at least 1"):
        cluster.local_workers(here, 0)


@pytest.mark.parametrize("answer", ["dead", "gone", "silent"])
def test_ray_that_ends_or_falls_silent_ends_the_run_that_would_wait_for_it(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SILENCE", 0.1)
    nodes: Any = {"dead": lambda: [{"NodeID": "own", "Alive": False}], "gone": list, "silent": lambda: time.sleep(1)}
    ray = SimpleNamespace(
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "own"), nodes=nodes[answer],
        wait=lambda *_, **__: (time.sleep(0.05), ([], []))[1],
    )  # fmt: skip
    schedule = Schedule([Node("prune", "a")])
    with board_of(schedule) as board, pytest.raises(FastFluxError, match="the same command goes on"):
        Pool(ray, MagicMock(), tmp_path, schedule, board, lambda *_: None).run(1)


@pytest.mark.parametrize("error", ["RayActorError", "OutOfMemoryError"])
def test_a_unit_whose_worker_is_killed_is_made_by_another_one_and_fails_at_last(error: str, tmp_path: Path) -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    ray = SimpleNamespace(get=MagicMock(side_effect=getattr(exceptions, error)(None)), exceptions=exceptions)
    schedule, kind = Schedule([node := Node("prune", "a")]), MagicMock()
    with board_of(schedule) as board:
        pool = Pool(ray, kind, tmp_path, schedule, board, lambda *_: None)
        for deaths in range(1, TRIES + 1):
            assert schedule.start() is node
            pool._take("call", "worker", node)
            assert kind.remote.call_count == deaths
    assert schedule.failures == {"prune:a": f"its worker died {TRIES} times, as for lack of memory"}


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "127.0.0.1:1", "auto", "ray://", "a:b"])
def test_an_address_at_which_nothing_listens_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    ray = SimpleNamespace(init=lambda **_: pytest.fail("Ray would wait for minutes"), shutdown=lambda: None)
    here: Any = SimpleNamespace(on_cpu=True)
    with pytest.raises(FastFluxError, match=f"no Ray cluster answers at {address} "):
        cluster._connected(ray, address, 1, here).__enter__()


def test_another_version_of_ray_is_told_with_both() -> None:
    def init(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\nThis process: 2.60.0")

    here: Any = SimpleNamespace(on_cpu=True)
    with pytest.raises(FastFluxError, match=r"with: Ray: 2\.9\.0 This process: 2\.60\.0\): check .*Ray's version"):
        cluster._connected(SimpleNamespace(init=init, shutdown=list), "nowhere", 1, here).__enter__()


# -- the real thing

SMALL = """extends = "shapes"
name = "small"
pipeline = "pipeline"
prompts = ["prompts/shapes/hps.jsonl"]
without = ["others.sd3", "metrics.geneval", "metrics.fid", "metrics.paired"]
[sampling]
steps = 1
[calibration]
steps = 1
[latency]
warmup = 0
rounds = 6
batch = 1
[methods]
linear_replacement.ranking = "start2end"
block_removal.ranking = "start2end"
sandwich_training = { ranking = "start2end", samples = 8, steps = 1, batch = 4, rank = 2 }
"""


def small_run(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """A run whose messages go to <folder>/<workers>.log."""
    write_tiny_pipeline(folder / "pipeline")
    (folder / "small.toml").write_text(SMALL)
    options = ("--profile", "small.toml", "--limit", "1", "--seeds", "1", "--variants", "fastflux-20,fastflux-30")
    bench = ("nice", "-n", "1", sys.executable, "-m", "bench")
    command = [*bench, "reproduce", *options, "--workers", str(workers), "-o", "runs"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / f"{workers}.log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=environ, stderr=log)


def figures(folder: Path) -> dict[str, object]:
    """All of a run that is the same on every machine: pictures by their hashes, plans and scores."""
    run = folder / "runs" / "small-limit1-seeds1"
    records = [json.loads(path.read_text()) for path in sorted((run / "results").glob("*.json"))]
    timed = {"latency", "memory", "pruning_cost"}
    return {
        "pictures": {path.parent.name: path.read_text() for path in run.rglob("manifest.jsonl")},
        "plans": {record["variant"]: record["plan"] for record in records},
        "values": {
            (record["variant"], one["info"]["name"]): (one["status"], one["values"])
            for record in records
            for one in record["measurements"]
            if one["info"]["name"] not in timed
        },
    }


def is_worker(process: Any) -> bool:
    return "".join(process.cmdline()).startswith("ray::Worker")


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_of_which_one_is_killed_give_the_bits_of_one(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    import psutil

    folders = {workers: tmp_path / str(workers) for workers in (1, 2)}
    for folder in folders.values():
        folder.mkdir()
    two = small_run(folders[2], 2)
    run = folders[2] / "runs" / "small-limit1-seeds1"
    while not list(run.glob("draw/*.json")):
        assert two.poll() is None, (folders[2] / "2.log").read_text()
        time.sleep(0.2)
    with pytest.raises(FastFluxError, match="another run works in"), locked(run):
        pass
    everyone = children(two.pid)
    processes = [psutil.Process(pid) for pid in everyone if psutil.pid_exists(pid)]
    worker = next(process for process in psutil.process_iter() if process.pid in everyone and is_worker(process))
    assert worker.nice() == psutil.Process(two.pid).nice(), "it yields to others as much as the run does"
    worker.kill()
    assert two.wait() == 0, (folders[2] / "2.log").read_text()
    _, left = psutil.wait_procs(processes, timeout=30)  # those that were told end by themselves
    assert not left, "nothing is left behind"
    assert small_run(folders[1], 1).wait() == 0
    assert figures(folders[2]) == figures(folders[1])
