"""README.md: the two commands at the top, and tables that are the generated ones."""

from pathlib import Path

import pytest

from fastflux.errors import FastFluxError
from reports.readme import filled

ROOT = Path(__file__).parent.parent


def test_the_two_commands_stand_at_the_top() -> None:
    top = (ROOT / "README.md").read_text().splitlines()[:25]
    assert any("nox -s reproduce_tables" in line for line in top)
    assert any("nox -s tests" in line for line in top)


def test_its_tables_are_the_generated_ones() -> None:
    text = (ROOT / "README.md").read_text()
    assert filled(text, ROOT / "reports" / "generated") == text
    assert text.count("<!-- generated:") == 14


def test_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    targets = [part.split(")")[0] for part in text.split("](")[1:]]
    assert not [target for target in targets if "://" not in target and not (ROOT / target).exists()]


def test_the_settings_of_metrics_are_left_to_the_generated_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("### Title\n\n| x |\n\nUnderlined: best.\n\nclip\\_score (version 1): n = 4\n")
    assert filled("<!-- generated: a.md -->\n<!-- end -->\n", tmp_path) == (
        "<!-- generated: a.md -->\n### Title\n\n| x |\n\nUnderlined: best.\n\n"
        "[How it was measured](reports/generated/a.md)\n<!-- end -->\n"
    )


def test_places_are_filled_and_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("### Title\n\n| x |\n")
    text = "before\n<!-- generated: a.md -->\nold\n<!-- end -->\nafter\n"
    assert filled(text, tmp_path) == "before\n<!-- generated: a.md -->\n### Title\n\n| x |\n<!-- end -->\nafter\n"
    with pytest.raises(FastFluxError, match=r"b\.md"):
        filled("<!-- generated: b.md -->\n<!-- end -->", tmp_path)
