r"""Any text as LaTeX: every character is typeset, or shown by its number, in whatever font encoding the document has.

The result is ASCII and needs no package: pdflatex's default fonts have no Cyrillic, Chinese or emoji, and its TS1
symbols are bitmaps where cm-super is not installed, so symbols come from its mathematical fonts.
"""

import re
import unicodedata

from fastflux.text import code_points

#: Greek letters that look like Latin ones, for which LaTeX has no names.
_GREEK_TWINS = dict(
    zip(
        "\u03bf\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
        "oABEZHIKMNOPTYX",
        strict=True,
    )
)
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\`{}",
    # The quotation mark is active in some languages of babel, and closes only in the default font.
    '"': r"\texttt{\char34}",
    # A row may begin with these, and the \\ before it would take them for its own star or option.
    "*": "{*}", "[": "{[}", "]": "{]}",
    "\N{EN DASH}": "--", "\N{EM DASH}": "---", "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-",
    "\N{LEFT SINGLE QUOTATION MARK}": "`", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``", "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots{}", "\N{INVERTED QUESTION MARK}": "?`", "\N{INVERTED EXCLAMATION MARK}": "!`",
    "\N{LATIN SMALL LETTER SHARP S}": r"\ss{}", "\N{LATIN SMALL LETTER AE}": r"\ae{}",
    "\N{LATIN CAPITAL LETTER AE}": r"\AE{}", "\N{LATIN SMALL LIGATURE OE}": r"\oe{}",
    "\N{LATIN CAPITAL LIGATURE OE}": r"\OE{}", "\N{LATIN SMALL LETTER O WITH STROKE}": r"\o{}",
    "\N{LATIN CAPITAL LETTER O WITH STROKE}": r"\O{}", "\N{LATIN SMALL LETTER L WITH STROKE}": r"\l{}",
    "\N{LATIN CAPITAL LETTER L WITH STROKE}": r"\L{}", "\N{LATIN SMALL LETTER DOTLESS I}": r"\i{}",
    **_GREEK_TWINS,
}  # fmt: skip
_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)  # fmt: skip
_CAPITALS = ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "phi", "psi", "omega")
_UNICODE = {"lambda": "lamda"}  # as its standard spells it
_SUPERSCRIPTS = (0xB2, 0xB3, 0xB9, 0x2070, *range(0x2074, 0x207A))
_MATHEMATICAL = {
    "\N{MULTIPLICATION SIGN}": r"\times", "\N{PLUS-MINUS SIGN}": r"\pm", "\N{MINUS SIGN}": "-",
    "\N{DIVISION SIGN}": r"\div", "\N{MIDDLE DOT}": r"\cdot", "\N{BULLET}": r"\bullet", "\N{DEGREE SIGN}": r"^{\circ}",
    "\N{LESS-THAN OR EQUAL TO}": r"\leq", "\N{GREATER-THAN OR EQUAL TO}": r"\geq", "\N{NOT EQUAL TO}": r"\neq",
    "\N{ALMOST EQUAL TO}": r"\approx", "\N{TILDE OPERATOR}": r"\sim", "\N{INFINITY}": r"\infty",
    "\N{LEFTWARDS ARROW}": r"\leftarrow", "\N{UPWARDS ARROW}": r"\uparrow", "\N{RIGHTWARDS ARROW}": r"\rightarrow",
    "\N{DOWNWARDS ARROW}": r"\downarrow", "\N{LEFT RIGHT ARROW}": r"\leftrightarrow", "\N{N-ARY SUMMATION}": r"\sum",
    "\N{SQUARE ROOT}": r"\surd", "\N{ELEMENT OF}": r"\in", "\N{DAGGER}": r"\dagger", "\N{DOUBLE DAGGER}": r"\ddagger",
    "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}": r"\ll", "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}": r"\gg",
    "\N{MATHEMATICAL LEFT ANGLE BRACKET}": r"\langle", "\N{MATHEMATICAL RIGHT ANGLE BRACKET}": r"\rangle",
    "\N{NOT SIGN}": r"\neg", "\N{MICRO SIGN}": r"\mu", "\N{PRIME}": "'",
    "\N{SUPERSCRIPT MINUS}": "^{-}", "\N{SECTION SIGN}": r"\mathsection",
    "\N{PILCROW SIGN}": r"\mathparagraph", "\N{GREEK SMALL LETTER FINAL SIGMA}": r"\varsigma",
    **{chr(power): f"^{{{unicodedata.digit(chr(power))}}}" for power in _SUPERSCRIPTS},
    **{chr(0x2080 + digit): f"_{{{digit}}}" for digit in range(10)},
    **{unicodedata.lookup(f"GREEK SMALL LETTER {_UNICODE.get(name, name)}"): f"\\{name}" for name in _GREEK},
    **{unicodedata.lookup(f"GREEK CAPITAL LETTER {_UNICODE.get(name, name)}"): f"\\{name.title()}"
       for name in _CAPITALS},
}  # fmt: skip
#: Accents that all of LaTeX's encodings of Latin letters have, by their combining characters.
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0331": "b",
}  # fmt: skip
#: Fonts make one character of these: a dash of two hyphens, a quotation mark of two apostrophes.
_LIGATURES = {"--", "''", "``", ",,", "?`", "!`"}
#: A word of more characters may be broken, and after how many: a checksum is longer than a column.
_LONGEST_WORD, _BROKEN_AFTER = 20, 10
#: Of more characters in a row that have no glyph the first ones are shown, and how many there are.
_MOST_NUMBERS = 24


def escape_latex(text: str) -> str:
    """`text` as LaTeX that typesets exactly these characters on one line, ⟨U+4E2D⟩ for those it has no glyph for.

    Of a long row of those the first 24 are shown.
    """
    return " ".join(_word(word) for word in unicodedata.normalize("NFC", text).split())


def signed(escaped: str) -> str:
    """A minus sign instead of a hyphen before numbers, in escaped text."""
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def _word(word: str) -> str:
    pieces: list[str] = []
    unknown: list[str] = []
    for character in word:
        piece = _piece(character)
        if piece is None:
            unknown.append(character)
            continue
        if unknown:
            pieces.append(_numbers(unknown))
            unknown = []
        if pieces and pieces[-1][-1] + piece[0] in _LIGATURES:
            piece = "{}" + piece
        pieces.append(piece)
    if unknown:
        pieces.append(_numbers(unknown))
    if len(word) > _LONGEST_WORD:
        starts = range(0, len(pieces), _BROKEN_AFTER)
        return r"\allowbreak{}".join("".join(pieces[start : start + _BROKEN_AFTER]) for start in starts)
    return "".join(pieces)


def _piece(character: str) -> str | None:
    """One character, or None for one that cannot be typeset."""
    if character in _SPECIAL or character in _MATHEMATICAL:
        return _SPECIAL.get(character) or f"${_MATHEMATICAL[character]}$"
    if character.isascii():
        return character if character.isprintable() else None
    base, accent = (*unicodedata.normalize("NFD", character), "", "")[:2]
    if base + accent != unicodedata.normalize("NFD", character) or accent not in _ACCENTS:
        return None
    if base in _MATHEMATICAL and accent == "\u0301":
        return rf"$\acute{{{_MATHEMATICAL[base]}}}$"
    if not (base.isascii() and base.isalpha()):
        return None
    return _accented(base, _ACCENTS[accent])


def _accented(letter: str, accent: str) -> str:
    # i and j lose their dots under an accent above them.
    dotless = rf"\{letter}" if letter in "ij" and accent not in "dcb" else letter
    return rf"\{accent}{{{dotless}}}"


def _numbers(characters: list[str]) -> str:
    shown = code_points(characters[:_MOST_NUMBERS])[1:-1]
    more = len(characters) - _MOST_NUMBERS
    return rf"$\langle${shown}{f' and {more} more' if more > 0 else ''}$\rangle$"
