"""Tables of what was measured, for a terminal and for pages."""

from collections.abc import Iterable, Sequence
from html import escape


def row(cells: Iterable[object]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def head(names: Sequence[str]) -> str:
    """Return the first two lines of a Markdown table."""
    return f"{row(names)}\n|{'---|' * len(names)}"


def table(names: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    return "\n".join([head(names), *map(row, rows)])


def html_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table for an HTML page. The last cell of a row, if it is a verdict, is the row's class as well."""

    def cells(name: str, texts: Sequence[str]) -> str:
        missed = ' class="missed"' * (texts[-1] == "missed")
        return f"<tr{missed}>" + "".join(f"<{name}>{escape(text)}</{name}>" for text in texts) + "</tr>"

    return f"<table>{cells('th', names)}{''.join(cells('td', texts) for texts in rows)}</table>"
