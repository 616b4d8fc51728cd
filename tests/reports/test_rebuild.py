"""The committed documents: they are what the committed records give, and a difference of any kind is told."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reports.cli as command_line
from bench.records.results import RunRecord
from fastflux.errors import FastFluxError
from reports.build import DOCUMENT_FORMATS
from reports.cli import main
from reports.rebuild import PACKAGE, check, documents, rebuild, replace_all, write_manifest


@pytest.fixture(scope="module")
def built(hps_records: tuple[RunRecord, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small repository: records of one profile, its documents, a README that shows one; to be read, not changed."""
    root = tmp_path_factory.mktemp("built")
    for record in hps_records:
        record.write(root / "reports" / "data" / "results" / "cpu" / "shapes" / f"{record.variant}.json")
    (root / "README.md").write_text("<!-- generated: table6.md -->\n<!-- end -->\n", encoding="utf-8")
    (root / "reports" / "generated").mkdir()
    write_manifest(root / "reports" / "data")
    replace_all(root / "reports")
    return root


@pytest.fixture
def package(built: Path, tmp_path: Path) -> Path:
    """The folder reports/ of a copy."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path / "reports"


def test_every_kind_of_difference_is_told(package: Path) -> None:
    generated, readme = package / "generated", package.parent / "README.md"
    assert "| Model" in readme.read_text(encoding="utf-8")
    (generated / "table1.md").unlink()
    (generated / "table2.md").write_text("a better number", encoding="utf-8")
    (generated / "stale.md").write_text("of a table that is gone", encoding="utf-8")
    readme.write_text("<!-- generated: table6.md -->\nby hand\n<!-- end -->\n", encoding="utf-8")
    assert check(package) == [
        "table1.md is missing", "stale.md is made from nothing", "table2.md differs", "README.md shows other tables",
    ]  # fmt: skip
    replace_all(package)
    assert check(package) == []
    assert not (generated / "stale.md").exists()


def test_a_record_that_changed_is_refused(package: Path) -> None:
    path = package / "data" / "results" / "cpu" / "shapes" / "dense.json.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"28.0625", b"28.5")))
    with pytest.raises(FastFluxError, match=r"dense.json.gz in .* are not as SHA256SUMS says"):
        check(package)
    with pytest.raises(FastFluxError, match=r"dense.json.gz has the digest .* it was changed"):
        write_manifest(package / "data")


def test_other_profiles_have_folders_of_their_own(package: Path, results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, package / "data" / "results" / "cuda" / "flux-dev")
    write_manifest(package / "data")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in rebuild(package, tmp_path / "out")}
    assert {"table1.md", "cuda/flux-dev/table1.md"} <= names


def test_no_records_are_told(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="holds no records"):
        rebuild(tmp_path, tmp_path / "out")


def test_command_line_ends_with_1_when_something_differs(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "PACKAGE", package)
    (package / "generated" / "table1.md").unlink()
    assert main(["rebuild", "--check"]) == 1
    assert "table1.md is missing" in capsys.readouterr().err
    assert main(["rebuild"]) == 0
    assert (package / "generated" / "table1.md").is_file()


@pytest.mark.slow
def test_the_repositorys_documents_are_what_its_records_give(tmp_path: Path) -> None:
    committed = PACKAGE / "generated"
    made = {path.relative_to(tmp_path) for path in rebuild(PACKAGE, tmp_path)}
    assert made == documents(committed)
    for name in sorted(made):
        fresh, kept = tmp_path / name, committed / name
        if name.suffix.lstrip(".") in DOCUMENT_FORMATS:
            assert fresh.read_bytes() == kept.read_bytes(), f"{name}: run `nox -s reports` and commit"
        elif name.suffix == ".png":  # fonts are rendered a shade differently by other builds of the same version
            pictures = [np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) for path in (fresh, kept)]
            assert pictures[0].shape == pictures[1].shape, name
            assert np.abs(pictures[0] - pictures[1]).mean() < 1.0, f"{name}: run `nox -s reports` and commit"
