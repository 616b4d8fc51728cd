r"""LaTeX: any text escaped, and a table as a fragment for `\input`: booktabs, never wider than the text.

Every character is typeset, or shown by its number, in whatever font encoding the document has. The result is ASCII and
needs no package: pdflatex's default fonts have no Cyrillic, Chinese or emoji, and its TS1 symbols are bitmaps where
cm-super is not installed, so symbols come from its mathematical fonts.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from textwrap import wrap

from fastflux.text import code_points
from reports.table import Cell, Direction, Header, Table, behind, display, letter

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


#: Where a row's record is told in the document, by its variant's anchor.
ANCHOR = "prov:"
_ARROWS: dict[Direction, str] = {"up": r" $\uparrow$", "down": r" $\downarrow$", "": ""}
_LONG_HEADING, _MANY_COLUMNS = 11, 6  # letters, columns
#: Longer text is broken to lines, whatever its column.
_LONGEST_TEXT = 200
#: More lines than this do not fit a page with what stands around them.
_MOST_LINES = 40
_RULE = r"\midrule"
_RAGGED = r"\raggedright "
#: Shrinks what is wider than the text and nothing else, so one fragment fits one column and two.
FIT = r"\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{"


def to_latex(table: Table, *, records: bool = False, row_labels: Sequence[str] = ()) -> str:
    r"""The table as a LaTeX fragment for `\input`, which ends with a newline; pure ASCII.

    Its first line names the packages it needs. With `records` each row leads to its record in provenance.tex, which
    needs hyperref; `row_labels` are labels that others lead to, one for each row.
    """
    marks = {note: letter(index) for index, note in enumerate(table.footnotes)}
    sentences = any(header.width for header in table.headers)
    declarations = "".join(_declaration(header) for header in table.headers)
    heads = _row([_heading(header) for header in table.headers], sentences=sentences)
    body = _body(table, marks, records=records, row_labels=row_labels)
    # In a document LaTeX numbers the tables itself: the paper's number goes behind.
    title = re.sub(r"^(Table \d+): (.*)$", r"\2 (\1 of the paper)", table.title)
    captions = [escape_latex(f"{title}.")] + ([rf"\textbf{{{escape_latex(table.label)}}}"] if table.label else [])
    caption = rf"\caption{{{' '.join(captions)}}}"
    label = rf"tab:{re.sub('[^A-Za-z0-9]+', '-', table.name)}"
    notes = [rf"\textsuperscript{{{mark}}} {escape_latex(note)}" for note, mark in marks.items()]
    notes += [escape_latex(note) for note in table.notes]
    notes += [r"Records: Table~\ref{tab:provenance}."] if records else []
    below = [rf"\par\smallskip{{\footnotesize\raggedright {note}\par}}" for note in notes]
    needs = rf"% Needs \usepackage{{booktabs}} and \usepackage{{{'longtable' if sentences else 'graphicx'}}}."
    if sentences:  # they may fill pages, which a float cannot
        top = [r"\toprule", heads]
        lines = [
            needs, *([r"\providecommand{\phantomsection}{}"] if row_labels else []), r"{\small",
            r"\setlength{\LTcapwidth}{\linewidth}", rf"\begin{{longtable}}{{{declarations}}}",
            rf"{caption} \label{{{label}}} \\", *top, r"\endfirsthead", *top, r"\endhead",
            r"\bottomrule", r"\endlastfoot", *body, r"\end{longtable}", *below, "}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"
    setup = [r"\small"] if len(table.headers) > _MANY_COLUMNS else []
    lines = [needs, r"\begin{table}[t]", r"\centering", caption, rf"\label{{{label}}}", *setup]
    for number, part in enumerate(_parts(body)):
        if number:  # what does not fit a page goes on in a table of its own
            lines += [r"\end{table}", r"\begin{table}[t]", r"\centering", *setup]
            lines.append(rf"Table~\ref{{{label}}}, continued.\par\smallskip")
        lines += [f"{FIT}%", rf"\begin{{tabular}}{{{declarations}}}", r"\toprule", heads]
        lines += [*part, r"\bottomrule", r"\end{tabular}}"]
    return "\n".join([*lines, *below, r"\end{table}"]) + "\n"


def _body(table: Table, marks: Mapping[str, str], *, records: bool, row_labels: Sequence[str]) -> list[str]:
    """The lines of all groups, each behind a rule and its heading."""
    labels = iter(row_labels)
    body: list[str] = []
    for group in table.groups:
        body.append(_RULE)
        if group.heading:
            heading = _broken(rf"\textit{{{escape_latex(group.heading)}}}", 1)
            body.append(rf"\multicolumn{{{len(table.headers)}}}{{l}}{{{heading}}} \\")
        for row in group.rows:
            cells = [_cell(cell, header, marks) for cell, header in zip(row, table.headers, strict=True)]
            if records and (origin := next((cell.origin for cell in row if cell.origin), None)):
                ragged = _RAGGED if cells[0].startswith(_RAGGED) else ""  # it holds to the end of a paragraph
                cells[0] = rf"{ragged}\hyperref[{anchor(origin[0])}]{{{cells[0].removeprefix(_RAGGED)}}}"
            if label := next(labels, ""):
                cells[0] = rf"\phantomsection\label{{{label}}}{cells[0]}"
            body.append(_row(cells, sentences=any(header.width for header in table.headers)))
    return body


def _parts(body: Sequence[str]) -> list[list[str]]:
    """The body in parts that fit a page, each of which begins with a rule; a heading stays with its rows."""
    parts: list[list[str]] = [[]]
    for line in body:
        full = len(parts[-1]) >= _MOST_LINES
        if full and line == _RULE:
            parts.append([])
        elif full and len(parts[-1]) >= _MOST_LINES + 2:
            parts.append([_RULE])
        parts[-1].append(line)
    return parts


def anchor(variant: str) -> str:
    """The label of a variant's record in provenance.tex: of letters, digits and hyphens, other characters by number."""
    return ANCHOR + re.sub("[^A-Za-z0-9-]", lambda found: f".{ord(found[0]):x}.", variant)


def _declaration(header: Header) -> str:
    """What stands for the column in tabular's argument."""
    if header.width:
        return rf"p{{\dimexpr {header.width:g}\linewidth-2\tabcolsep\relax}}"
    return "r" if header.align == "right" else "l"


def _cell(cell: Cell, header: Header, marks: Mapping[str, str]) -> str:
    mark = rf"\textsuperscript{{{marks[cell.footnote]}}}" if cell.footnote else ""
    text = signed(escape_latex(display(cell, header)))
    text = rf"\textbf{{{text}}}" if cell.bold else text
    text = rf"\underline{{{text}}}" if cell.underline else text
    text = " ".join([text, *(signed(escape_latex(part)) for part in behind(cell, header))]) + mark
    return f"{_RAGGED}{text}" if header.width else _broken(text)


def _heading(header: Header) -> str:
    """The heading, in several lines when it is long: a table of the paper's eight columns has to fit a page."""
    if header.width:
        return f"{_RAGGED}{escape_latex(header.text)}"
    lines = [
        escape_latex(line) for line in wrap(header.text, _LONG_HEADING, break_long_words=False, break_on_hyphens=False)
    ]
    text = _broken(r"\\".join(lines or [""]) + _ARROWS[header.direction])
    return rf"\shortstack[{header.align[0]}]{{{text}}}" if len(lines) > 1 else text


def _broken(text: str, width: float = 0.4) -> str:
    """Escaped text in lines when it is very long: a row wider than 5 m is more than TeX can count, and shrink."""
    return rf"\parbox[t]{{{width:g}\linewidth}}{{\raggedright {text}\strut}}" if len(text) > _LONGEST_TEXT else text


def _row(cells: Sequence[str], *, sentences: bool = False) -> str:
    # Behind the \raggedright of a sentence \\ means another thing.
    return " & ".join(cells) + (r" \tabularnewline" if sentences else r" \\")
