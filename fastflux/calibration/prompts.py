"""Text files that come from outside: prompts and captions, as lines, JSON lines or a JSON list."""

import json
import re
from pathlib import Path
from typing import Any

from fastflux.errors import FastFluxError

TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".parquet", ".arrow")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
_KEYS = ("prompt", "text", "caption")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: a line each; of ``.jsonl`` an object a line; of ``.json`` a list of texts or objects.

    Objects hold a ``prompt``, ``text`` or ``caption``. Blank lines are left out. Raises ``FastFluxError`` naming the
    file, and the line or entry where one is bad.
    """
    suffix = path.suffix.lower()
    if suffix in TABLES:
        raise FastFluxError(f"{path} is a table: write its prompts to a text file, one a line, or to .jsonl.")
    if suffix == ".json":
        found = parse_json(read_text(path), str(path))
        if not isinstance(found, list):
            raise FastFluxError(f"{path} holds no JSON list: expected a list of prompts, or a text file of one a line.")
        prompts = [text_of(entry, f"{path}, entry {number}") for number, entry in enumerate(found, 1)]
    elif suffix in (".jsonl", ".ndjson"):
        prompts = [text_of(entry, where) for where, entry in read_json_lines(path)]
    else:
        prompts = [text_of(line.strip(), where) for where, line in read_lines(path)]
    if not prompts:
        raise FastFluxError(f"The prompt file {path} holds no prompt: write one a line.")
    return prompts


def read_text(path: Path) -> str:
    """UTF-8 text without a byte order mark; raises ``FastFluxError`` naming a file that is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FastFluxError(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise FastFluxError(f"Cannot read {path}: {error.strerror or error}.") from error


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The lines that are not blank, each with what names it in an error; only LF and CR LF end a line."""
    lines = re.split(r"\r?\n", read_text(path))  # splitlines would cut a text at U+2028 and its like
    return [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def read_json_lines(path: Path) -> list[tuple[str, Any]]:
    """The values of a file of JSON lines, each with what names it in an error."""
    return [(where, parse_json(line, where)) for where, line in read_lines(path)]


def parse_json(text: str, where: str) -> Any:
    """A JSON value of whole characters; raises ``FastFluxError`` naming ``where`` it stands."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FastFluxError(f"{where} is no JSON ({str(error)[:80]}): {text[:60]!r}.") from error
    if _SURROGATE.search(text) and _HALF.search(json.dumps(found, ensure_ascii=False)):
        raise FastFluxError(f"{where} has half a surrogate pair, which no tokenizer takes: {text[:60]!r}.")
    return found


def text_of(entry: Any, where: str) -> str:
    """A prompt or caption: the entry itself, or what an object has under one of its usual keys."""
    if isinstance(entry, dict):
        key = next((key for key in _KEYS if key in entry), None)
        if key is None:
            raise FastFluxError(f"{where} has none of the keys {', '.join(_KEYS)}: {json.dumps(entry)[:60]}.")
        entry = entry[key]
    if not isinstance(entry, str) or not entry.strip():
        raise FastFluxError(f"{where} has a prompt that is no text: {str(entry)[:60]!r}.")
    return entry
