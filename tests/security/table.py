"""What does the table of docs/security-of-boxes.md say? It is the only place where that is written.

A cell is `VERDICT`, or `VERDICT (condition) / VERDICT`, and may go on with `: ` and words for people.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import attrs

PAGE = Path(__file__).parent.parent.parent / "docs" / "security-of-boxes.md"
VERDICTS = ("held", "not held", "works", "does not work")

#: Under which a verdict may be written, and no others: the tests know when they are true.
CONDITIONS = ("root", "may use Docker", "Docker < 24", "Docker < 25")

_ALTERNATIVE = re.compile(rf"(?P<verdict>{'|'.join(VERDICTS)})(?: \((?P<condition>[^()]+)\))?")


class TableError(Exception):
    """The table cannot be read."""


@attrs.frozen
class Cell:
    """What one sandbox does about one attack.

    :ivar alternatives: verdicts with the condition under which each is true; the last has none
    """

    text: str
    alternatives: tuple[tuple[str, str | None], ...]

    def verdict(self, true: Collection[str]) -> str:
        """The verdict where the conditions *true* hold."""
        return next(verdict for verdict, condition in self.alternatives if condition is None or condition in true)


def read_table(text: str) -> dict[str, dict[str, Cell]]:
    """The cells by attack, then by column, in the order of the page.

    :raises TableError: a row or cell is not understood; it is quoted
    """
    lines = iter(text.splitlines())
    columns: list[str] = []
    for line in lines:
        if line.startswith("| attack |"):
            columns = _split(line)[1:]
            break
    next(lines, None)  # the line of dashes
    table: dict[str, dict[str, Cell]] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *cells = _split(line)
        title = first.partition(":")[0]
        if len(cells) != len(columns):
            raise TableError(f"the row {title!r} has {len(cells)} cells, and the table has {len(columns)} columns")
        if title in table:
            raise TableError(f"there are two rows {title!r}")
        table[title] = dict(zip(columns, map(read_cell, cells), strict=True))
    if not table:
        raise TableError("the page has no table that begins with '| attack |'")
    return table


def read_cell(text: str) -> Cell:
    """One cell; :raises TableError: it does not say what came of the attack, or under a condition that nobody knows."""
    alternatives: list[tuple[str, str | None]] = []
    for one in text.partition(": ")[0].split(" / "):
        match = _ALTERNATIVE.fullmatch(one)
        if match is None:
            raise TableError(f"the cell {text!r} begins with {one!r}; write one of {', '.join(VERDICTS)}")
        if match["condition"] not in (None, *CONDITIONS):
            raise TableError(f"the cell {text!r} is about {match['condition']!r}; known are {', '.join(CONDITIONS)}")
        alternatives.append((match["verdict"], match["condition"]))
    conditions = [condition for _, condition in alternatives]
    if conditions[-1] is not None or None in conditions[:-1]:
        raise TableError(f"the cell {text!r} must end with what holds otherwise, as in 'not held (root) / held'")
    return Cell(text, tuple(alternatives))


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
