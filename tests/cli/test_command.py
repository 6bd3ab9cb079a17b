"""The command as a whole: its help, what it needs, what may reach a terminal, and streams of events."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click
import pytest
from cli.conftest import TESTS, Boxflow, program
from hypothesis import given, settings
from hypothesis import strategies as st

from boxflow.cli.main import cli
from boxflow.cli.printing import json_text, safe
from boxflow.cli.server_events import ServerEvent, server_events


def commands(group: click.Group, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)
        else:
            yield (*words, name), command


ALL = dict(commands(cli))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_for_itself_and_for_each_option(boxflow: Boxflow, words: tuple[str, ...]) -> None:
    done = boxflow(*words, "--help")
    assert done.code == 0 and done.out.startswith(f"Usage: boxflow {' '.join(words)}")
    options = [one for one in ALL[words].params if isinstance(one, click.Option)]
    assert [one.name for one in options if not one.help] == []


def test_every_command_speaks_json_but_those_whose_output_is_not_theirs() -> None:
    without = {words for words, command in ALL.items() if all(one.name != "as_json" for one in command.params)}
    assert without == {("serve",), ("boxes", "logs")}


def test_what_is_not_understood_ends_with_2(boxflow: Boxflow) -> None:
    assert boxflow().code == 2
    for arguments in (["fly"], ["runs", "fly"], ["runs", "list", "--fly"], ["agents", "install", "clod"]):
        done = boxflow(*arguments)
        assert (done.code, done.out) == (2, "")
        assert arguments[-1].lstrip("-") in done.err
    assert "duration 'soon' is not understood" in boxflow("runs", "prune", "--older-than", "soon").err


def test_without_its_extra_the_command_says_in_one_line_what_to_install() -> None:
    code = "import sys; sys.modules['rich'] = None; from boxflow.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "boxflow: the command needs rich: pip install 'boxflow[cli]'\n"


def test_importing_the_entry_point_imports_neither_click_nor_rich() -> None:
    code = "import sys, boxflow, boxflow.cli; print([one for one in ('click', 'rich') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_the_shell_completes_commands_and_options() -> None:
    completing = program(_BOXFLOW_COMPLETE="bash_complete", COMP_WORDS="boxflow runs re", COMP_CWORD="2")
    out, err = completing.communicate(timeout=30)
    assert (completing.returncode, err) == (0, "")
    assert sorted(out.split()) == ["plain,restart", "plain,resume"]


def on_a_terminal(*arguments: str, **variables: str) -> str:
    """What the command shows on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-m", "boxflow.cli", *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**environment, **variables},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # Linux says so when the other side has gone.
    os.close(ours)
    process.wait(timeout=30)
    return shown.decode()


def test_a_terminal_gets_our_colours_unless_it_wants_none_and_nobody_elses(boxflow: Boxflow, store: str) -> None:
    assert boxflow("run", "cli.shop:fail", "--run-id", "bad", "--store", store).code == 1
    shown = on_a_terminal("runs", "--store", store)
    assert "\x1b[31mfailed" in shown
    assert r"\x1b]0;closed\x07" in shown and "\x1b]0;" not in shown
    plain = on_a_terminal("runs", "--store", store, NO_COLOR="1")
    assert "\x1b[3" not in plain and "failed" in plain


def test_a_reader_that_leaves_early_is_no_defect(boxflow: Boxflow, store: str) -> None:
    assert boxflow("run", "cli.shop:count", "--payload", "1", "--store", store).code == 0
    listing = program("runs", "--store", store, "--json")
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.wait(timeout=30) in (0, 1)
    assert listing.stderr is not None
    assert "Traceback" not in listing.stderr.read()
    listing.stderr.close()


@given(st.text())
def test_whatever_the_text_nothing_of_it_steers_a_terminal(text: str) -> None:
    assert all(one.isprintable() for one in safe(text))
    assert all(one.isprintable() or one in "\n\t" for one in safe(text, lines=True))
    if text.isprintable():
        assert safe(text) == text


SCALARS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
@settings(max_examples=30, deadline=None)
def test_json_is_printable_and_says_the_same(value: object) -> None:
    for indent in (0, 2):
        text = json_text(value, indent=indent)
        assert all(one.isprintable() or one == "\n" for one in text)
        assert json.loads(text) == value


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_the_same_in_whatever_pieces_they_come(size: int) -> None:
    text = ': hello\n\nevent: outcome\r\nid: 7\ndata: {"a": "\u2028\x85"}\n\ndata\ndata: two\n\nevent: cut'.encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]

    async def read() -> list[ServerEvent]:
        return [event async for event in server_events(pieces())]

    assert asyncio.run(read()) == [
        ServerEvent(event="outcome", data='{"a": "\u2028\x85"}', id="7"),
        ServerEvent(event="message", data="\ntwo", id="7"),
    ]


def test_the_doctor_says_what_is_there_and_what_to_do(boxflow: Boxflow, tmp_path: Path, store: str) -> None:
    done = boxflow("doctor", "--directory", str(tmp_path), "--sandbox", f"local:{tmp_path}/boxes", "--store", store)
    assert done.code == 0
    found = {line[0]: line[1] for line in done.lines[1:]}
    assert (found["python"], found["sandbox"], found["store"]) == ("ok", "ok", "missing")
    assert found["claude-code"] == "missing"
    assert "an engine makes it at its first start" in done.out
    broken = boxflow("doctor", "--directory", str(tmp_path), "--sandbox", "hut:", "--json")
    assert (broken.code, broken.data["ok"]) == (1, False)
    assert "has no known scheme" in broken.data["findings"][0]["detail"]
