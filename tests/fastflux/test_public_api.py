"""What `import fastflux` offers: every name is there, cheap to import, and its example does what it says."""

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastflux
from fastflux.models.architecture import example_inputs
from fastflux.workflow import generate, rank

EXAMPLES = {
    name: getattr(fastflux, name) for name in fastflux.__all__ if ">>>" in (getattr(fastflux, name).__doc__ or "")
}


@pytest.mark.parametrize("name", sorted({*EXAMPLES, "rank", "generate"}))
def test_the_example_of_a_docstring_runs(name: str, base: Path, tmp_path: Path) -> None:
    thing: Any = EXAMPLES.get(name) or {"rank": rank, "generate": generate}[name]
    names = {"fastflux": fastflux, "folder": base, "out": tmp_path / "out", "example_inputs": example_inputs}
    names |= {"rank": rank, "generate": generate}
    (example,) = [found for found in doctest.DocTestFinder(recurse=False).find(thing, name) if found.examples]
    example.globs = names
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0


@pytest.mark.parametrize(
    "name", ["prune", "rank_blocks", "prune_", "fold_", "export_pipeline", "load_pipeline", "plan_of"]
)
def test_the_main_functions_have_an_example(name: str) -> None:
    assert name in EXAMPLES
    sections = inspect.getdoc(EXAMPLES[name]) or ""
    assert "Args:" in sections
    assert "Example:" in sections


def test_every_name_of_the_stub_is_there() -> None:
    assert {"ModelMixin", "FastFluxTransformer2DModel", "FastFluxSD3Transformer2DModel"} < set(fastflux.__all__)
    assert set(fastflux.__all__) <= set(dir(fastflux))
    for name in fastflux.__all__:
        assert getattr(fastflux, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = fastflux.nothing_like_it  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="FastFluxNothing"):
        _ = fastflux.FastFluxNothing  # type: ignore[attr-defined]


def test_importing_takes_less_than_a_fifth_of_a_second() -> None:
    code = "import time; began = time.process_time(); import fastflux; print(time.process_time() - began)"
    times = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    assert min(times) < 0.2


def test_help_loads_no_torch() -> None:
    code = "import sys, fastflux.cli as cli; print(cli.main(['prune', '--help']), 'torch' in sys.modules)"
    shown = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert shown.endswith("0 False\n")
    for text in (
        "examples:\n  fastflux prune flux-dev --ratio 0.1",
        "--train-steps",
        "--save-every",
        "--activations",
        "-o",
    ):
        assert text in shown
