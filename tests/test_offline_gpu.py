import tarfile
from pathlib import Path

import pytest

from bench.cli import main
from experiments.offline_gpu import driver
from experiments.offline_gpu.driver import LOST, Driver, plan

SMALL = plan(tiny=True).runs["whole"]


@pytest.mark.parametrize(("tiny", "more"), [(True, ""), (False, f"{SMALL} --set random.resolutions=[512,1024]")])
def test_bench_knows_every_setting_and_stage(tiny: bool, more: str, tmp_path: Path) -> None:
    chosen = plan(tiny=tiny)
    for run, own in chosen.runs.items():
        settings = f"{more} {own}"
        steps = [step for step in chosen.steps if step.run == run]
        stages = ",".join(step.options.removeprefix("--stages ") for step in steps)
        assert main(["full_size", "--dry-run", f"--out={tmp_path}", *settings.split(), f"--stages={stages}"]) == 0


class Recorded(Driver):
    """Notes the options of every call instead of measuring; the second step raises."""

    def bench(self, run: str, *options: str) -> int:
        with (self.work / "calls").open("a") as calls:
            calls.write(f"{run} {' '.join(options)}\n")
        if "replacement" in options:
            raise RuntimeError("a step's fault")
        return 0


def call(folder: Path, seconds: float = 1000) -> list[str]:
    """What one process asks of bench."""
    out = folder / "out"
    for path in (out, folder / "runs"):
        path.mkdir(exist_ok=True)
    (folder / "calls").write_text("")
    recorded = Recorded(folder, out, seconds, plan(tiny=seconds > 100))
    recorded.measure()
    recorded.collect()
    return (folder / "calls").read_text().splitlines()


def test_a_failed_step_costs_no_other_and_a_lost_gpu_starts_a_process_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = steps = plan(tiny=True).steps
    names = [step.name for step in steps]
    monkeypatch.setattr(driver, "_gpu_answers", lambda: False)
    with pytest.raises(SystemExit) as ended:
        call(tmp_path)
    assert ended.value.code == LOST
    assert (tmp_path / "tried").read_text().split() == names[:1]
    monkeypatch.setattr(driver, "_gpu_answers", lambda: True)
    assert not any(line.startswith(f"{first.run} --budget") for line in call(tmp_path))
    assert (tmp_path / "tried").read_text().split() == names
    assert "replacement: raised RuntimeError" in (tmp_path / "out" / "summary.txt").read_text()
    assert not any("--budget" in line for line in call(tmp_path))  # each once in a call
    assert all(path.is_file() for path in (tmp_path / "out").iterdir())  # deeper ones may not come back

    elsewhere = tmp_path / "elsewhere"  # another call, on another machine
    with tarfile.open(tmp_path / "out" / "runs.tar.gz") as kept:
        kept.extractall(elsewhere, filter="data")
    again = call(elsewhere)
    assert again[0] == f"{first.run} --budget={first.most} {first.options} --retry"
    assert sum("--retry" in line for line in again) == 1


def test_a_step_is_left_out_where_too_few_seconds_remain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_gpu_answers", lambda: True)
    calls = call(tmp_path, 70)
    first, *_ = plan(tiny=False).steps
    assert calls[0] in [f"{first.run} --budget={seconds} {first.options}" for seconds in range(45, 66)]
    assert not any("equal-latency" in line for line in calls)
