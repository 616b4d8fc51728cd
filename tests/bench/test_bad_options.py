"""A generated sweep of values that no option of `bench` and `reports` can mean: a sentence, a status, nothing begun."""

import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest

from bench.records.results import RunRecord
from bench.run import external, units
from tests.fastflux.test_bad_options import BELOW_ONE, NO_INTEGERS, NO_NUMBERS, dealt
from tests.fastflux.tiny_pipeline import write_tiny_pipeline

NO_NAMES = ("", ",", " , ", "nothing", "../..", "hps;fid")
PROFILES = ("", "nothing", ".", "/", "nothing.toml", "text.toml", "Shapes", "../shapes")
DEVICES = ("", "gpu", "cuda:7", "mps", "meta", "cpu:x", "CPU")
CHANGES = (
    *("", "x", "=1", "steps=1", "sampling.steps=abc", "sampling.batch=0", "name=../x", "prompts=text", "others=1"),
    *("methods.l1norm.steps=1", "metrics.hsp.x=1", "dtype=int8", "pipeline=5", "disk_mib=x", "sampling=1"),
)
#: What makes each command whole, and its options with values that it cannot take.
BENCH: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    ("reproduce", "--variants", "dense"): {
        "--limit --seeds --workers": NO_INTEGERS + BELOW_ONE,
        "--only --variants": NO_NAMES, "--out": ("text.toml", "/proc/x"),
        "--set": ('families=["nothing"]',),
    },
    ("rank",): {"--samples": NO_INTEGERS + BELOW_ONE, "--out": ("text.toml", "/proc/x")},
    ("draw", "pipe", "-o", "drawn"): {
        "--steps --size --limit": NO_INTEGERS + BELOW_ONE, "--size": ("24", "63"), "--guidance": NO_NUMBERS,
        "-o": ("text.toml", "text.toml/x", "/proc/x"),
    },
    ("score", "images", "--name", "mine"): {
        "--metrics": (*NO_NAMES, "flops", "paired"), "--name": ("", "a/b", "..", "a b", "-"), "--out": ("text.toml",),
    },
    ("speed", "--variants", "fastflux-10"): {
        "--rounds": NO_INTEGERS + BELOW_ONE, "--batches": (*NO_INTEGERS, "1,x", "0", "-1", ","),
        "--variants": NO_NAMES, "--compile": ("fast", "no"),
    },
    ("regress",): {
        "--limit --rounds": NO_INTEGERS + BELOW_ONE, "--variants --checks": NO_NAMES,
        "--model": ("", "nowhere", "a=", "=text.toml", "text.toml"),
        "--tolerance": ("", "x", "hps=x", "hps=-1", "no=1"),
    },
    ("full_size", "--stages", "flops"): {
        "--budget": (*NO_NUMBERS, "0"), "--stages": NO_NAMES, "--dtype": ("", "int8", "float8", "FLOAT"),
    },
}  # fmt: skip
REPORTS: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    ("build", "--results", "records", "-o", "out"): {
        "--format --tables": NO_NAMES, "--tolerance": (*NO_NUMBERS, "1", "5"),
        "--ranking": ("nowhere", "text.toml", "."),
        "--gallery --results": ("nowhere", "text.toml", "."), "-o": ("text.toml", "text.toml/x", "/proc/x"),
    },
    ("gallery", "--results", "records", "--images", ".", "-o", "out"): {
        "--shots --edge": NO_INTEGERS + BELOW_ONE, "--images --results": ("nowhere", "text.toml"),
    },
    ("rebuild",): {"--format": NO_NAMES},
    ("importance", "text.toml", "-o", "out"): {},
    ("importance", "nowhere", "-o", "out"): {},
    ("diff", "records", "nowhere"): {},
    ("diff", "text.toml", "records"): {},
    ("why", "nothing", "dense", "averaged", "--results", "records"): {},
    ("why", "table1", "nothing", "averaged", "--results", "records"): {},
    ("why", "table1", "dense", "nothing", "--results", "records"): {},
    ("why", "text.toml:table1", "dense", "averaged", "--results", "records"): {},
    ("why", "table1", "dense", "averaged"): {"--results": ("nowhere", "text.toml", ".")},
    ("history",): {"--out": ("x.jpg", "x")},
    ("history", "text.toml"): {},
    ("history", "nowhere"): {},
    ("pdf", "--results", "nowhere"): {},
}  # fmt: skip


def sweep() -> list[tuple[str, tuple[str, ...]]]:
    """Command lines, each with one value that cannot be meant."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for package, commands in (("bench.cli", BENCH), ("reports.cli", REPORTS)):
        for number, (whole, options) in enumerate(commands.items()):
            pairs = [pair for names, values in options.items() for pair in dealt(names.split(), values)]
            if package == "bench.cli":  # whose commands read these in the same way: a third of the values each
                shared = (("--profile", PROFILES), ("--device", DEVICES), ("--set", CHANGES))
                pairs += [(name, value) for name, values in shared for value in values[number % 3 :: 3]]
            found += [(package, (*without(whole, name), f"{name}={value}")) for name, value in pairs]
            found += [(package, (*whole, option)) for option in ("--no-such-option", "-x")]
            found += [] if pairs else [(package, whole)]
    found += [
        ("reports.cli", ("history", f"--{name}={value}"))
        for name, value in itertools.product(("metric", "profile"), ("", "nothing", ".", "text.toml"))
    ]
    return found


def without(line: tuple[str, ...], option: str) -> tuple[str, ...]:
    """The line without an option and its value."""
    place = line.index(option) if option in line else len(line)
    return line[:place] + line[place + 2 :]


LINES = sweep()


def test_the_sweep_is_large() -> None:
    assert len(set(LINES)) >= 150


def test_no_line_of_the_sweep_is_accepted_or_ends_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for module, name in ((units.Runner, "make"), (external, "generate")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("the long work has begun"))
    write_tiny_pipeline(Path("pipe"))
    Path("text.toml").write_text("no TOML")
    Path("images").mkdir()
    (Path("images") / "manifest.jsonl").write_text("")
    record = next((Path(__file__).parents[2] / "reports/data/results/cpu/shapes").glob("dense.json.gz"))
    RunRecord.read(record).write(Path("records/dense.json"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    faults: list[Any] = []
    for package, line in LINES:
        try:
            status: Any = importlib.import_module(package).main(list(line))
        except BaseException as error:  # noqa: BLE001
            status = repr(error)
        said = capsys.readouterr().err
        sentences = [text for text in said.splitlines() if text.startswith("python -m")]
        if status not in (1, 2) or len(sentences) != 1 or "Traceback" in said:
            faults.append((line, status, said[-300:]))
    assert not faults, f"{len(faults)} of {len(LINES)}:\n" + "\n".join(map(str, faults[:60]))
    assert {path: path.read_bytes() for path in before} == before
