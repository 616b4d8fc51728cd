"""Text of records, of which nobody knows what it holds, on one line and with nothing in it that cannot be seen."""

import unicodedata
from collections.abc import Iterable

#: Control and format characters (bidirectional overrides among them), halves of surrogate pairs: they have no glyph,
#: hide or turn round what stands beside them, or cannot be written as UTF-8.
_UNSEEN = frozenset(("Cc", "Cf", "Cs"))
#: Emoji and some scripts are spelt with them.
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


def one_line(text: str) -> str:
    """`text` on one line, single spaces between its words, each character that has no glyph as ⟨U+0007⟩."""
    return "".join(code_points(character) if unseen(character) else character for character in " ".join(text.split()))


def unseen(character: str) -> bool:
    """Whether the character shows nothing by itself; spaces do."""
    return unicodedata.category(character) in _UNSEEN and character not in _JOINERS


def code_points(characters: Iterable[str]) -> str:
    """The characters by number, for where they cannot be shown: ⟨U+4E2D U+6587⟩."""
    numbers = " ".join(f"U+{ord(character):04X}" for character in characters)
    return f"\N{MATHEMATICAL LEFT ANGLE BRACKET}{numbers}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"


def printable(text: str) -> str:
    """`text` with its lines, tabs and spaces as they are, each character that has no glyph as ⟨U+0007⟩."""
    return "".join(
        code_points(character) if unseen(character) and character not in "\n\t" else character for character in text
    )
