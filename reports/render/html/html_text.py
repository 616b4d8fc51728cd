"""Text and data inside an HTML page: whatever a record holds shows as its characters and is never markup or script."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.records.results import JSON

_REPLACED = "\N{REPLACEMENT CHARACTER}"
#: Control characters are shown by their pictures (U+2400 and on); lone surrogates cannot be written as UTF-8 at all.
_UNSEEN: dict[int, str] = (
    {code: chr(0x2400 + code) for code in range(0x20)}
    | {0x7F: "\N{SYMBOL FOR DELETE}"}
    | dict.fromkeys(range(0x80, 0xA0), _REPLACED)
    | dict.fromkeys(range(0xD800, 0xE000), _REPLACED)
)
_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def visible(text: str) -> str:
    """`text` on one line, with pictures in place of control characters."""
    return " ".join(text.split()).translate(_UNSEEN)


def escape_html(text: str) -> str:
    """`text` for an element's content or a quoted attribute; it shows exactly these characters on one line."""
    return html.escape(visible(text))


def element_id(name: str) -> str:
    """`name` as an id that needs no escaping in a link either."""
    return re.sub("[^A-Za-z0-9]+", "-", name).strip("-")


def script_json(data: JSON) -> str:
    """Data as JSON inside a script element: ASCII alone, and no character that could end the element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_IN_SCRIPT)


def fact_list(facts: Iterable[tuple[str, str]], *attributes: str) -> str:
    """Named facts as a description list; `attributes` are written into its tag as they are."""
    tag = " ".join(["dl", 'class="facts"', *attributes])
    entries = (f"<dt>{escape_html(name)}</dt><dd>{escape_html(text)}</dd>" for name, text in facts)
    return f"<{tag}>{''.join(entries)}</dl>"
