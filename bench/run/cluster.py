"""Workers of a run on Ray: one a GPU, or one a core; each holds its models, and writes what it makes itself."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch

import bench
from bench.progress import Board, console, quiet_libraries
from bench.records.environment import sha256_of_sources
from bench.run.evaluate import Done, Settler, attempt, board_of, run_here, settler
from bench.run.evaluation import Evaluation
from bench.run.graph import Node, Schedule
from fastflux.errors import FastFluxError
from fastflux.files import write_text
from fastflux.settings import require_device, require_positive
from fastflux.text import one_line
from fastflux.threads import usable_cores, usable_memory

MEMORY_BYTES = 2.5 * 2**30
"""Of a worker on the CPU, at most."""
TRIES = 3
"""Of a unit whose worker dies."""
PATIENCE = 300.0
"""Seconds without any worker before the run gives up."""
SILENCE = 30.0
"""Seconds without an answer after which Ray counts as gone; after 60 it ends the process without a word of ours."""
ANSWER = 5.0
"""Seconds in which a cluster's address must answer."""
_OBJECTS = 100 * 2**20
_ROOT = Path(bench.__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """What a worker makes its own `Evaluation` from, and by which it sees whether it is in the right place."""

    evaluation: dict[str, Any]
    settler: Callable[[Evaluation], Settler]
    folder: str
    token: str
    sources: str
    weights_bytes: int

    @classmethod
    def of(cls, evaluation: Evaluation, settler: Callable[[Evaluation], Settler], token: str) -> Job:
        """The job of a run."""
        fields = ("profile", "folder", "variants", "limit", "device", "models")
        made = {name: getattr(evaluation, name) for name in fields}
        made |= {name: made[name].resolve() for name in ("folder", "models")}
        return cls(made, settler, str(Path.cwd()), token, _sources(), evaluation.main.weights_bytes)


def _sources() -> str:
    """Hash of the program."""
    return "".join(sha256_of_sources(_ROOT / package) for package in ("bench", "fastflux"))


class Worker:
    """A process that settles units, one at a time."""

    def __init__(self) -> None:
        quiet_libraries()

    def begin(self, job: Job) -> str:
        """Make ready; why this worker cannot take part, "" if it can."""
        place = platform.node()
        if not (folder := Path(job.evaluation["folder"])).joinpath(job.token).exists():
            return f"{place} does not see {folder}: mount the storage of the run folder there, or give --out"
        if job.sources != _sources():
            return f"{place} has another version of FastFLUX in {_ROOT}: install the same there"
        with suppress(OSError):
            os.chdir(job.folder)
        self.evaluation = Evaluation(**job.evaluation)
        self.settler = job.settler(self.evaluation)
        try:
            require_device(self.evaluation.device)
            if not self.evaluation.on_cpu:
                total = torch.cuda.mem_get_info(self.evaluation.device)[1]
                if total < job.weights_bytes:
                    needed, there = job.weights_bytes / 2**30, total / 2**30
                    return f"the pipeline takes {needed:.1f} GiB, but {place}'s GPU has {there:.1f}: take a larger one"
        except FastFluxError as error:
            return f"{place}: {error}"
        return ""

    def settle(self, node: Node) -> tuple[str, float]:
        """The reason where a unit cannot be made, and the seconds it took."""
        began = monotonic()
        return attempt(self.settler, node), monotonic() - began


def execute(
    evaluation: Evaluation,
    schedule: Schedule,
    done: Done,
    workers: int | None,
    address: str | None,
    settler: Callable[[Evaluation], Settler] = settler,
) -> None:
    """Settle a schedule in this process or by workers, each with a settler of its own."""
    if workers == 1 and address is None:
        run_here(settler(evaluation), schedule, done)
    else:
        run_on_ray(evaluation, schedule, done, workers, address, settler)


def run_on_ray(
    evaluation: Evaluation,
    schedule: Schedule,
    done: Done,
    workers: int | None,
    address: str | None,
    settler: Callable[[Evaluation], Settler],
) -> None:
    """Settle a schedule by workers on this machine, or on those of a running cluster.

    A unit whose worker dies is given to another one, `TRIES` times in all.

    Raises FastFluxError: Ray is not installed, the address does not answer, there are fewer GPUs or cores than asked
    for, or a worker cannot take part.
    """
    try:
        import ray
    except ImportError as error:
        raise FastFluxError('Ray is not installed: pip install "fastflux[cluster]", or use --workers 1') from error
    token = f".seen-{secrets.token_hex(4)}"
    write_text(evaluation.folder / token, "workers look for it\n")
    try:
        with _connected(ray, address, workers or 1, evaluation):
            count = workers or _most(ray, evaluation)
            if count > (most := _most(ray, evaluation)):
                what = "cores" if evaluation.on_cpu else "GPUs"
                raise FastFluxError(f"{count} workers are asked for, but the cluster has {most} {what}: ask for fewer.")
            console.print(f"{len(schedule.left)} units of work on {count} workers", markup=False)
            options = {
                "num_cpus": 1,
                "num_gpus": 0 if evaluation.on_cpu else 1,
                "max_restarts": 0,
                "max_task_retries": 0,
            }
            kind = ray.remote(**options)(Worker)
            with board_of(schedule, count) as board:
                Pool(ray, kind, Job.of(evaluation, settler, token), schedule, board, done).run(count)
    finally:
        (evaluation.folder / token).unlink(missing_ok=True)


def local_workers(evaluation: Evaluation, workers: int | None) -> int:
    """How many workers this machine gets: as many as asked for, or one a GPU or a core, as far as its memory goes."""
    require_positive(workers=workers)
    if workers is None and find_spec("ray") is None:
        console.print('one worker, for want of Ray: pip install "fastflux[cluster]"', markup=False)
        return 1
    if not evaluation.on_cpu:
        there = 1 if torch.device(evaluation.device).index is not None else torch.cuda.device_count()
        if workers is not None and workers > there:
            raise FastFluxError(f"{workers} workers are asked for, but there are {there} GPUs for them: ask for fewer.")
        return workers or max(1, there)
    chosen = workers or usable_cores()
    fitting = max(1, int(usable_memory(psutil.virtual_memory().available) / MEMORY_BYTES))
    if fitting < chosen:
        console.print(f"{fitting} instead of {chosen} workers: each takes up to {MEMORY_BYTES / 2**30} GiB of memory")
    return min(chosen, fitting)


def _most(ray: Any, evaluation: Evaluation) -> int:
    return int(ray.cluster_resources().get("CPU" if evaluation.on_cpu else "GPU", 0))


@contextmanager
def _connected(ray: Any, address: str | None, workers: int, evaluation: Evaluation) -> Iterator[None]:
    """Ray, started or joined; in the end all of it that belongs to this run is gone, and signals end it as before."""
    # By itself Ray adds 15 to the niceness of workers, which would let anything else on the machine go first.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_worker_niceness="0")
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    temporary = None
    own: list[psutil.Process] = []
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "fastflux"}
    if address is None:
        temporary = tempfile.mkdtemp(prefix="fastflux-")
        os.environ["PYTHONPATH"] = path  # of the workers, which inherit it
        options |= {
            "address": "local",  # whatever RAY_ADDRESS says
            "num_cpus": workers,
            "num_gpus": 0 if evaluation.on_cpu else workers,
            "include_dashboard": False,
            "object_store_memory": _OBJECTS,
            "_temp_dir": temporary,
        }
    else:
        passed = {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "HF_"))}
        options |= {"address": address, "runtime_env": {"env_vars": {**passed, "PYTHONPATH": path}}}
    try:
        try:
            _require_answer(address)
            ray.init(**options)
        except (OSError, RuntimeError, ValueError) as error:
            what = "Ray cannot be started" if address is None else f"no Ray cluster answers at {address}"
            why = one_line(str(error))[:300].rstrip(".")
            raise FastFluxError(f"{what} ({why}): check the address and Ray's version, or use --workers 1") from error
        for number, handler in handlers.items():  # Ray sets its own
            signal.signal(number, handler)
        if temporary is not None:
            own = psutil.Process().children(recursive=True)
        yield
    finally:
        with suppress(Exception):
            ray.shutdown()
        for process in own:  # what the death of another one of them left behind
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _require_answer(address: str | None) -> None:
    """Raise OSError or ValueError where nothing listens at host:port, for which Ray itself waits up to minutes."""
    place = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address or ""
    if ":" in place:
        parts = urlsplit(place if "://" in place else f"//{place}")
        socket.create_connection((parts.hostname or "", parts.port or 10001), timeout=ANSWER).close()


class Pulse:
    """Asks Ray, beside the run, whether this process's node is alive: what waits for a dead one never ends."""

    def __init__(self, ray: Any) -> None:
        self.seen, self.alive = monotonic(), True
        Thread(target=self._feel, args=(ray, ray.get_runtime_context().get_node_id()), daemon=True).start()

    def _feel(self, ray: Any, own: str) -> None:
        with suppress(Exception):  # Ray is shut down
            while self.alive:
                self.alive = any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own)
                self.seen = monotonic()
                sleep(1.0)

    def require(self) -> None:
        """Raise FastFluxError where Ray is gone."""
        if not self.alive or monotonic() - self.seen > SILENCE:
            raise FastFluxError(
                "Ray's own process ended or does not answer any more, as for lack of memory: "
                "what is done is kept, and the same command goes on."
            )


@dataclass
class Pool:
    """Workers of a `kind`, what each of them does, and what is left for them; `job` is what each begins with."""

    ray: Any
    kind: Any
    job: Any
    schedule: Schedule
    board: Board
    done: Done
    idle: list[Any] = field(default_factory=list)
    calls: dict[Any, tuple[Any, Node | None]] = field(default_factory=dict)
    """By what is waited for: the worker, and its node, None while it makes ready."""
    lost: Counter[str] = field(default_factory=Counter)

    def run(self, count: int) -> None:
        """Settle all that can be settled."""
        for _ in range(count):
            self._hire()
        seen, pulse = monotonic(), Pulse(self.ray)
        while not self.schedule.ended:
            pulse.require()
            while self.idle and (node := self.schedule.start()) is not None:
                worker = self.idle.pop(0)
                self.calls[worker.settle.remote(node)] = (worker, node)
            self.board.show(map(str, self.schedule.running.values()))
            for call in self.ray.wait(list(self.calls), timeout=1.0)[0]:
                self._take(call, *self.calls.pop(call))
            if self.idle or self.schedule.running:
                seen = monotonic()
            elif monotonic() - seen > PATIENCE:
                raise FastFluxError(f"no worker could be started within {PATIENCE:.0f} s: look at the cluster.")

    def _hire(self) -> None:
        worker = self.kind.remote()
        self.calls[worker.begin.remote(self.job)] = (worker, None)

    def _take(self, call: Any, worker: Any, node: Node | None) -> None:
        try:
            answer = self.ray.get(call)
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.OutOfMemoryError):  # Ray killed it for the other
            self._hire()
            if node is not None:
                self._lose(node)
            return
        self.idle.append(worker)
        if node is None:
            if answer:
                raise FastFluxError(answer)
        elif answer[0]:
            self._fail(node, answer[0])
        else:
            self.schedule.finish(node)
            self.board.finished(node.steps, answer[1])
            self.done(node, answer[1])

    def _lose(self, node: Node) -> None:
        self.lost[node.key] += 1
        if self.lost[node.key] == TRIES:
            self._fail(node, f"its worker died {TRIES} times, as for lack of memory")
            return
        console.print(f"the worker of {node} died: that is made once more", markup=False, soft_wrap=True)
        self.schedule.put_back(node)

    def _fail(self, node: Node, reason: str) -> None:
        self.board.failed(str(node), reason)
        self.schedule.fail(node, reason)
