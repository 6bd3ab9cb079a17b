"""What may reach a terminal, and how? Tables and lines for people, JSON for programs, no control characters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Where nobody looks, a line is as long as its text: a pipe has no edge to wrap at.
_ENDLESS: Final = 100_000

_STYLES: Final[Mapping[str, str]] = {
    "completed": "green",
    "failed": "red",
    "diverged": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "ok": "green",
    "missing": "yellow",
    "broken": "red",
}


@attrs.frozen
class Column:
    """A column of a table.

    :param title: its heading
    :param whole: never cut, only wrapped: for what people copy
    """

    title: str
    whole: bool = False


def safe(text: str, *, lines: bool = False) -> str:
    r"""*text* with everything that could steer a terminal written out, as in `\x1b`.

    Ids, errors and output come from anywhere. Besides control characters that is what turns the direction of text
    round, and halves of surrogate pairs, which cannot be written at all.

    :param lines: line ends and tabs stay
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(one if one.isprintable() or one in kept else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_WRITTEN_OUT: Final = re.compile(r"[^\x20-\x7e\n]")


def json_text(value: object, *, indent: int = 2) -> str:
    """*value* as JSON whose every character may be printed; the same data to whoever reads it.

    :param indent: 0 for one line
    """
    data = msgspec.json.encode(value)
    text = (msgspec.json.format(data, indent=indent) if indent else data).decode()
    return _WRITTEN_OUT.sub(lambda found: found[0] if found[0].isprintable() else _json_escaped(found[0]), text)


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def show_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json_text(value))


def show_json_line(value: object) -> None:
    """One line of JSON lines on stdout."""
    click.echo(json_text(value, indent=0))


def show_line(text: str) -> None:
    """A line for people on stdout."""
    click.echo(safe(text))


def say(text: str) -> None:
    """A line for people on stderr, where it is in the way of no program."""
    click.echo(safe(text, lines=True), err=True)


def console(*, stderr: bool = False) -> Console:
    """A console that adds nothing of its own: no markup, no emoji, no guessed colours, and none with NO_COLOR."""
    plain = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if plain.is_terminal:
        return plain
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=_ENDLESS, soft_wrap=True)


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, overflow="fold" if column.whole else "ellipsis", no_wrap=not column.whole)
    for row in rows:
        table.add_row(*(styled(cell) for cell in row))
    _show(table)


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values on stdout, one below the other; those without a value are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            text = styled(value) if value in _STYLES else Text(safe(value, lines=True))
            table.add_row(Text(name), text)
    _show(table)


def _show(table: Table) -> None:
    to = console()
    if to.is_terminal:
        to.print(table)
        return
    with to.capture() as captured:
        to.print(table)
    # Without the spaces that fill the last column.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def styled(word: str) -> Text:
    """*word*, in the colour that it has everywhere."""
    return Text(safe(word), style=_STYLES.get(word, ""))
