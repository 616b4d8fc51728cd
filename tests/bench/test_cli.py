"""The command line as a whole: help with examples and without a model library, options that repeat, faulty ones."""

import pytest

from bench.cli import main
from bench.options import pairs
from fastflux.errors import FastFluxError

COMMANDS = ("reproduce", "rank", "draw", "score", "speed", "regress", "full_size")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_keeps_its_examples_and_tells_of_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"python -m bench {command}" in shown.partition("examples:")[2]
    assert "--profile" in shown


def test_settings_may_be_given_again_and_hold_signs_of_equality() -> None:
    assert pairs(["a.b=1", 'c=["x=y"]', "d="]) == {"a.b": "1", "c": '["x=y"]', "d": ""}
    for faulty in ("x", "=1"):
        with pytest.raises(FastFluxError, match="is no KEY=VALUE"):
            pairs([faulty])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["reproduce", "--profile", "shpes"], 1, "did you mean 'shapes'"),
        (["reproduce", "--limit", "few"], 2, "--limit"),
        (["rank", "--sampels", "3"], 2, "Did you mean --samples"),
        (["full_size", "--budget", "nan", "--stages", "flops"], 1, "--budget is nan"),
        (["full_size", "--set", "random.heads=0", "--set", "random.axes=[1, 2]"], 1, "random.heads is 0"),
        (["nothing"], 2, "nothing"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") <= 1
