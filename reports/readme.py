"""Keeps the tables in README.md and docs/results.md the generated ones: `python -m reports rebuild` fills the places.

The settings of every metric, which fill the foot of a generated table, are left to that file, to which a line leads.
"""

import re
from pathlib import Path

from fastflux.errors import FastFluxError

#: A metric's line at the foot of a table: its name, escaped for Markdown, and its version.
_SETTINGS = re.compile(r"[\w\\]+ \(version \w+\): ")
_PLACE = re.compile(r"(<!-- generated: (?P<name>[\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, documents: Path, link: str = "reports/generated") -> str:
    """`text` with every marked place holding its file of `documents`, whose headings are of the third level.

    `link` leads from the text to the committed ones. Raises FastFluxError when a file is missing.
    """

    def fill(place: re.Match[str]) -> str:
        path = documents / place["name"]
        if not path.is_file():
            raise FastFluxError(f"{place['name']} is shown, but {path} is missing: run `nox -s reports` first.")
        paragraphs = path.read_text(encoding="utf-8").strip().split("\n\n")
        shown = [paragraph for paragraph in paragraphs if not _SETTINGS.match(paragraph)]
        if len(shown) < len(paragraphs):
            shown.append(f"[How it was measured]({link}/{place['name']})")
        text = "\n\n".join(shown)
        return f"{place[1]}{text}\n{place[3]}"

    return _PLACE.sub(fill, text)
