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
