"""Read calibration prompts: plain text, one a line, or JSON lines with a ``prompt`` key."""

import json
from pathlib import Path

from fastflux.errors import FastFluxError


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file, blank lines skipped; ``.jsonl`` files hold an object a line.

    Raises ``FastFluxError`` naming the file, and the line where one is bad.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FastFluxError(f"Cannot read the prompt file {path}: {error}.") from error
    parse = _parse_json if path.suffix == ".jsonl" else lambda line, _where: line.strip()
    prompts = [parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise FastFluxError(f"The prompt file {path} holds no prompt: write one a line.")
    return prompts


def _parse_json(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise FastFluxError(f'{where} is no JSON object with a "prompt": {line[:60]!r}.') from error
    if not isinstance(prompt, str) or not prompt.strip():
        raise FastFluxError(f"{where} has a prompt that is no text: {prompt!r}.")
    return prompt
