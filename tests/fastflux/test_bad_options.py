"""A generated sweep of values that no option can mean: a sentence and a status, before anything is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastflux import workflow
from fastflux.cli import main

NO_INTEGERS = ("abc", "1.5", "", "nan", "1e3", "0x", "9" * 30)
NO_NUMBERS = ("abc", "", "nan", "inf", "-inf", "-1", "1,5")
BELOW_ONE = ("0", "-1")
REQUIRED = {
    "prune": ("--blocks", "1", "-o", "out", "--prompts", "p.txt", "--device", "cpu"),
    "rank": ("--prompts", "p.txt", "--device", "cpu"),
    "generate": ("a star", "-o", "out", "--device", "cpu"),
}
SANDWICH = ("--method", "sandwich_training")
SUBLAYERS = ("--method", "sublayer_replacement")
L1 = ("--method", "l1_norm", "--train-steps", "2")
CALIBRATION = ("--limit", "--steps", "--batch-size", "--height", "--width", "--text-tokens")


def dealt(names: Sequence[str], values: Sequence[str]) -> list[tuple[str, str]]:
    """Options that are read in the same way share their values: every third one each."""
    step = min(3, len(names))
    return [(name, value) for place, name in enumerate(names) for value in values[place % step :: step]]


def sweep() -> list[tuple[str, ...]]:
    """Command lines, each with one value that cannot be meant."""
    found: list[tuple[str, ...]] = []
    for command, options in (("prune", (*CALIBRATION, "--save-every")), ("rank", CALIBRATION)):
        found += [(command, *pair) for pair in dealt(options, NO_INTEGERS + BELOW_ONE) if valid(pair)]
        found += [(command, "--calibration-seed", value) for value in NO_INTEGERS]
        found += [(command, option, value) for option in ("--ridge", "--guidance") for value in NO_NUMBERS]
    sizes = ("--steps", "--height", "--width", "--text-tokens")
    found += [("generate", *pair) for pair in dealt(sizes, NO_INTEGERS + BELOW_ONE)]
    found += [("generate", "--seed", value) for value in NO_INTEGERS]
    found += [("generate", "--guidance", value) for value in NO_NUMBERS]
    trained = ("--samples", "--rank", "--train-steps", "--batch", "--layers")
    found += [("prune", *SANDWICH, *pair) for pair in dealt(trained, NO_INTEGERS + BELOW_ONE)]
    found += [("prune", *SANDWICH, "--samples", "2", "--lr", value) for value in NO_NUMBERS]
    shares = (*NO_NUMBERS, "0", "1.5")
    found += [("prune", *SUBLAYERS, option, value) for option in ("--flops", "--latency") for value in shares]
    found += [("prune", *SUBLAYERS, "--flops", "0.8", "--kinds", value) for value in ("", ",", "nothing", "linear,x")]
    found += [("prune", *method, "--targets", value) for method in (SUBLAYERS, SANDWICH) for value in ("", "nothing")]
    found += [("prune", option, value) for option in ("--seed", "--keep") for value in NO_INTEGERS]
    found += [("prune", "--keep", "-1")]
    for value in ("float64", "int8", "", "FLOAT32"):
        found += [(command, "--dtype", value) for command in REQUIRED] + [("prune", "--save-dtype", value)]
    for value in ("gpu", "cuda:7", "mps", "meta", "", "cpu:x"):
        found += [(command, "--device", value) for command in REQUIRED]
    found += [("prune", "--method", value) for value in ("", "l1", "L1_NORM", "fastflux.methods")]
    found += [(c, "--ranking", value) for c in ("prune", "rank") for value in ("", "r2", "nowhere.json", ".", "a.b")]
    found += [
        (command, option, value)
        for command, option in (("prune", "--prompts"), ("rank", "--images"))
        for value in ("", "nowhere", "/", "/dev/null", "p.txt/x")
    ]
    found += [("prune", "--activations", value) for value in ("", "gpu")]
    found += [(command, option) for command in REQUIRED for option in ("--no-such-option", "--steps", "-x")]
    return found


def valid(pair: tuple[str, str]) -> bool:
    """Huge counts that only mean "all" are no fault."""
    return pair not in {("--limit", "9" * 30), ("--save-every", "9" * 30), ("--batch-size", "9" * 30)}


LINES = sweep()


def test_the_sweep_is_large() -> None:
    assert len(set(LINES)) >= 150


def test_no_line_of_the_sweep_is_accepted_or_ends_in_a_traceback(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workflow, "load_pipeline", lambda *_, **__: pytest.fail("the long work has begun"))
    (tmp_path / "p.txt").write_text("a red star\na ring\n")
    faults: list[Any] = []
    for command, *options in LINES:
        given = [*REQUIRED[command]]
        for option in options[::2]:  # given twice is another fault
            if option in given:
                del given[given.index(option) : given.index(option) + 2]
            if option == "--images" and "--prompts" in given:
                del given[given.index("--prompts") : given.index("--prompts") + 2]
        try:
            status: Any = main([command, str(base), *given, *options])
        except BaseException as error:  # noqa: BLE001  # pytest.fail's own among them
            status = repr(error)
        sentence = capsys.readouterr().err
        if status not in {1, 2} or sentence.count("\n") != 1 or not 20 < len(sentence) < 500:
            faults.append((command, options, status, sentence[:300]))
    assert not faults, "\n".join(map(str, faults))
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]
