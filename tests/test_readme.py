"""README.md and docs/: short, true where they show what is generated, with links and names that lead somewhere."""

import re
from pathlib import Path

import pytest

import fastflux
from fastflux.errors import FastFluxError
from reports.rebuild import FILLED, PACKAGE, filled

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("nox -s reproduce_tables") for line in lines)
    assert any(line.startswith("nox -s tests") for line in lines)


@pytest.mark.parametrize(("name", "places"), [("README.md", 1), ("docs/results.md", 17)])
def test_generated_parts_are_current(name: str, places: int) -> None:
    assert name in FILLED
    text = (ROOT / name).read_text(encoding="utf-8")
    link = "reports/generated" if name == "README.md" else "../reports/generated"
    assert filled(text, PACKAGE / "generated", link) == text
    assert text.count("<!-- generated:") == places


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [part.split(")")[0].partition("#")[0] for part in text.split("](")[1:]]
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    files = re.findall(r"`((?:bench|docs|fastflux|prompts|reports|tests)/[\w/.-]+\.(?:py|toml|md|jsonl))`", text)
    assert not [file for file in files if not (ROOT / file).exists()]
    names = re.findall(r"\bfastflux\.([A-Za-z_]+)\(", text)
    assert not [name for name in names if not hasattr(fastflux, name)]


def test_the_settings_of_metrics_are_left_to_the_generated_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("### Title\n\n| x |\n\nUnderlined: best.\n\nclip\\_score (version 1): n = 4\n")
    assert filled("<!-- generated: a.md -->\n<!-- end -->\n", tmp_path, "../b") == (
        "<!-- generated: a.md -->\n### Title\n\n| x |\n\nUnderlined: best.\n\n"
        "[How it was measured](../b/a.md)\n<!-- end -->\n"
    )


def test_places_are_filled_and_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("### Title\n\n| x |\n")
    text = "before\n<!-- generated: a.md -->\nold\n<!-- end -->\nafter\n"
    assert filled(text, tmp_path) == "before\n<!-- generated: a.md -->\n### Title\n\n| x |\n<!-- end -->\nafter\n"
    with pytest.raises(FastFluxError, match=r"b\.md"):
        filled("<!-- generated: b.md -->\n<!-- end -->", tmp_path)
