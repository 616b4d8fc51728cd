"""Run the steps of a plan one after another in one process, each within its seconds, and collect after each.

``driver.py WORK OUT SECONDS`` measures, with ``flops`` behind it counts FLOPs beside that, and with 0 seconds only
collects; ``driver.py plan`` shows the steps. All work is that of `python -m bench`, called in this process, so that the
seconds which torch and diffusers take to import are spent once.
"""

import gc
import os
import shlex
import shutil
import signal
import sys
import tarfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LOST = 75
"""Exit status of a process whose GPU context an error has taken: the next one goes on behind that step."""


class Step(NamedTuple):
    """A part of the measurement.

    Args:
        name: what the summary calls it.
        least, most: seconds: it is left out where fewer remain, and gets no more.
        run: a key of `Plan.runs`: steps of the same settings share a folder.
        options: of `python -m bench full_size`.
    """

    name: str
    least: int
    most: int
    run: str
    options: str


class Plan(NamedTuple):
    """Settings by run, and the steps: first what no GPU has measured yet, most valuable first."""

    runs: dict[str, str]
    steps: tuple[Step, ...]


_QUICK = (
    "--set random.ratios=[0.2] --set random.equal_ratios=[0.2] --set random.resolutions=[1024] --set random.samples=32 "
    "--set random.scorer_batches=[1,32] --set methods.sandwich_training.steps=4"
)
_TINY_SIZES = """random.heads=2 random.head_dim=16 random.axes=[4,6,6] random.double_blocks=2 random.single_blocks=8
random.in_channels=16 random.text_tokens=16 random.t5_width=16 random.t5_heads=2 random.t5_head_dim=8 random.t5_mlp=16
random.t5_layers=1 random.clip_width=16 random.clip_heads=2 random.clip_mlp=16 random.clip_layers=1
random.vae_channels=[4,4,4,4] random.vae_layers=1 random.vae_groups=2 random.hps_architecture=ViT-S-32-alt
random.clip_architecture=ViT-S-32-alt random.detector_width=8 random.detector_depths=[1,1,1,1]
random.detector_heads=[1,1,1,1] random.detector_hidden=32 random.scorer_images=1 random.scorer_batches=[1]
random.resolutions=[32,48] random.ratios=[0.2] random.equal_ratios=[0.2] random.pruning_pixels=32 random.samples=6
random.compile_backend=eager random.replacement_rounds=2 sampling.height=32 sampling.width=32
sampling.steps=1 calibration.batch=2 latency.warmup=1 latency.rounds=2 latency.end_to_end=1
methods.sandwich_training.rank=2 methods.sandwich_training.steps=2 methods.sandwich_training.batch=2 disk_mib=100"""
_TINY = " ".join(["--device cpu --dtype float32", *(f"--set {pair}" for pair in _TINY_SIZES.split())])


def plan(*, tiny: bool) -> Plan:
    """The steps at FLUX.1-dev's size, or at sizes that a CPU runs through in minutes."""
    large, small = (48, 32) if tiny else (1024, 512)
    quick = f"{_TINY} --set random.samples=2" if tiny else _QUICK
    steps = (
        Step("offload-quick", 60, 200, "offload", "--stages calibration,prune-20"),
        Step("cuda-graphs", 60, 500, "whole", "--stages cuda-graphs"),
        Step("compiled", 60, 500, "whole", "--stages compiled"),
        Step("equal-latency", 120, 420, "whole", "--stages equal-latency"),
        Step("latency-of-equals", 45, 310, "whole", f"--stages latency-{large},latency-{small}"),
        Step("end-to-end", 220, 500, "whole", "--stages end-to-end"),
        Step("calibration", 120, 500, "whole", "--stages calibration"),
        Step("step-profile", 20, 150, "whole", "--stages step-profile"),
        # What was measured before.
        Step(f"latency-{large}", 60, 210, "whole", f"--stages latency-{large}"),
        Step("replacement", 15, 40, "whole", "--stages replacement"),
        Step("compiled-quick", 60, 140, "quick", "--stages compiled"),
        Step("calibration-quick", 45, 90, "quick", "--stages calibration"),
        Step("prune-quick", 60, 150, "quick", "--stages calibration,prune-20"),
        Step(f"latency-{small}", 45, 100, "whole", f"--stages latency-{small}"),
        Step("scorers-quick", 35, 90, "quick", "--stages scorers"),
    )
    if tiny:
        steps = tuple(step._replace(least=5) for step in steps)
    return Plan({"whole": _TINY if tiny else "", "quick": quick, "offload": f"{quick} --offload"}, steps)


@dataclass
class Driver:
    """Works in `work`, and leaves in `out` what is to come back."""

    work: Path
    out: Path
    seconds: float
    plan: Plan
    _began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self._began)

    def say(self, line: str) -> None:
        """Write a line of the summary."""
        with (self.work / "summary.txt").open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        print(line, flush=True)

    def bench(self, run: str, *options: str) -> int:
        """`python -m bench full_size` with the settings of a run; its exit status."""
        from bench.cli import main

        settings = shlex.split(self.plan.runs[run])
        return main(["full_size", "--allow-busy", f"--out={self.work / 'runs' / run}", *settings, *options])

    def measure(self) -> None:
        """Take each step that was not tried in this call, until one costs the process its GPU."""
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
        self.say(f"torch {torch.__version__}, {gpu}; imports {self.seconds - self.left:.0f} s")
        signal.signal(signal.SIGALRM, signal.default_int_handler)  # a step's time is over: as if by Ctrl-C
        tried, again = self.work / "tried", self.work / "runs" / "again.txt"
        for step in self.plan.steps:
            if step.name in _lines(tried):
                continue
            seconds = min(step.most, self.left - 5)
            if seconds < step.least:  # a shorter one behind it may yet fit
                self.say(f"{step.name}: {seconds:.0f} s are left, and it takes {step.least} at least")
                continue
            _write(tried, [*_lines(tried), step.name])
            retry = step.name in _lines(again)
            _write(again, [name for name in _lines(again) if name != step.name])
            print(f"=== {step.name}", flush=True)
            start = time.monotonic()
            status = self.take(step, seconds, ["--retry"] if retry or os.environ.get("RETRY") else [])
            self.say(f"{step.name}: {_told(status)}, {time.monotonic() - start:.0f} s")
            if (
                "prune-20" in step.options and status == 0
            ):  # statistics, which fill the disk, and nothing needs any more
                for path in (self.work / "runs" / step.run).rglob("*.safetensors"):
                    path.unlink()
            if not _gpu_answers():
                self.say("the GPU's context is lost: a new process goes on, and the next call takes that step again")
                _write(again, [*_lines(again), step.name])
                sys.exit(LOST)
            self.collect()

    def take(self, step: Step, seconds: float, options: list[str]) -> int | str:
        """Run a step, and stop it when it overruns; its exit status, or what it raised."""
        signal.setitimer(signal.ITIMER_REAL, min(1.25 * seconds, self.left - 5))
        try:
            return self.bench(step.run, f"--budget={seconds:.0f}", *step.options.split(), *options)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the steps behind it are worth having
            traceback.print_exc()
            return type(error).__name__
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def flops(self) -> None:
        """Count FLOPs, each run's beside it, on no device."""
        for run in self.plan.runs:
            if self.bench(run, "--stages=flops", f"--budget={self.left:.0f}") not in (0, 1):
                break  # it was stopped

    def collect(self) -> None:
        """Write the records of all that is finished, and pack what a later call goes on from; no tensors: GBs."""
        runs = self.work / "runs"
        for run in self.plan.runs:
            for place in (runs / run).glob("*/*"):  # <profile>/<device>-<hash>
                for note in place.parent.glob("flops-*/flops/*.json"):
                    if place != note.parents[1]:
                        (place / "flops").mkdir(exist_ok=True)
                        shutil.copy(note, place / "flops")
            self.bench(run, "--no-stages")  # measures nothing, and writes records
        with tarfile.open(self.out / ".runs", "w:gz") as archive:
            for path in sorted(path for path in runs.rglob("*") if path.suffix in (".json", ".txt")):
                archive.add(path, path.relative_to(self.work).as_posix())
        os.replace(self.out / ".runs", self.out / "runs.tar.gz")
        with suppress(FileNotFoundError):
            shutil.copy(self.work / "summary.txt", self.out)


def _told(status: int | str) -> str:
    named = {0: "all is measured", 1: "something failed", 3: "more is left"}
    return named.get(status, f"ended with {status}") if isinstance(status, int) else f"raised {status}"


def _gpu_answers() -> bool:
    """Whether the process still has its GPU, whose memory is given back; True where there is none."""
    import torch

    try:
        torch.compiler.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.synchronize()
    except RuntimeError:
        traceback.print_exc()
        return False
    return True


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    chosen = plan(tiny=bool(os.environ.get("TINY")))
    if arguments == ["plan"]:
        for step in chosen.steps:
            print(f"{step.name:<18} {step.least:>4} to {step.most} s  {step.options} {chosen.runs[step.run]}")
        return
    work, out, seconds, *rest = arguments
    driver = Driver(Path(work), Path(out), float(seconds), chosen)
    if rest == ["flops"]:
        driver.flops()
        return
    if driver.seconds:
        driver.measure()
    driver.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
