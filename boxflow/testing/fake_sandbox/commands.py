"""What does a scripted command do? Rules say: a reply, or a function that gets the command as it runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs

from boxflow.model import Duration, seconds
from boxflow.testing.rules import answered

if TYPE_CHECKING:
    from boxflow.testing.fake_sandbox.boxes import FakeBox


@attrs.frozen(kw_only=True)
class Reply:
    """What a command does: it takes a while, writes files and output, and exits.

    :param files: contents by path, relative to the command's directory
    """

    exit_code: int = 0
    stdout: str | bytes = ""
    stderr: str | bytes = ""
    delay: Duration = 0.0
    files: Mapping[str, str | bytes] = attrs.field(factory=dict[str, "str | bytes"])


class FakeCommand:
    """One command, as it was asked for and as it runs. Functions of rules get it; `FakeSandbox.commands` keeps it.

    :ivar command: as people read it: what `box.exec.command` was given, `"git clone URL ..."`, `"python code"`
    :ivar stdin: what it has been given so far
    :ivar exit_code: once it has ended; `128 + n` when signal *n* ended it
    """

    def __init__(
        self,
        box: FakeBox,
        command: str,
        argv: Sequence[str],
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        self.box = box
        self.command = command
        self.argv = tuple(argv)
        self.cwd = cwd
        self.env: Mapping[str, str] = dict(env or {})
        self.user = user
        self.stdin = b""
        self.exit_code: int | None = None
        self.signals: list[int] = []
        #: Where its output goes; set when it is started.
        self.output: Callable[[str, bytes], None] = lambda stream, data: None
        self._stdin_ended = False
        self._read_up_to = 0
        self._input = asyncio.Event()

    def __repr__(self) -> str:
        return f"<FakeCommand {self.command!r} in box {self.box.name!r}>"

    # --- for functions of rules ---------------------------------------------------------------------------------------

    def write(self, text: str | bytes) -> None:
        """Write to its standard output."""
        self._out("stdout", text)

    def write_error(self, text: str | bytes) -> None:
        """Write to its standard error."""
        self._out("stderr", text)

    async def read(self) -> bytes:
        """Its input to the end."""
        while not self._stdin_ended:
            await self._more_input()
        self._read_up_to = len(self.stdin)
        return self.stdin

    async def readline(self) -> bytes:
        """The next line of its input, with its newline; empty at the end."""
        while (end := self.stdin.find(b"\n", self._read_up_to)) < 0 and not self._stdin_ended:
            await self._more_input()
        stop = len(self.stdin) if end < 0 else end + 1
        line, self._read_up_to = self.stdin[self._read_up_to : stop], stop
        return line

    async def sleep(self, delay: Duration) -> None:
        """Take that long, in the time of the box's world; longer while the box is paused."""
        await self.box.time.sleep(seconds(delay))
        await self.box.goes_on()

    def path(self, name: str) -> str:
        """*name*, relative to the command's directory, as the files of its box have it."""
        return name if name.startswith("/") or not self.cwd else f"{self.cwd}/{name}"

    # --- for who runs it ----------------------------------------------------------------------------------------------

    def give(self, data: bytes) -> None:
        """More of its input."""
        self.stdin += data
        self._input.set()

    def end_input(self) -> None:
        """No more of it."""
        self._stdin_ended = True
        self._input.set()

    async def _more_input(self) -> None:
        self._input.clear()
        await self._input.wait()  # No deadline: whoever started the command ends its input, or the command.

    def _out(self, stream: str, text: str | bytes) -> None:
        self.output(stream, text.encode() if isinstance(text, str) else text)

    async def carry_out(self, answer: object) -> int:
        """Do what *answer* says, and return the exit status."""
        found = await answered(answer, self) if callable(answer) else answer
        if isinstance(found, bool) or not isinstance(found, Reply | str | bytes | int | None):
            raise TypeError(
                f"the rule for {self.command!r} gave {found!r}; give a Reply, its output as text or bytes, "
                "its exit status, or None"
            )
        reply = found if isinstance(found, Reply) else _as_reply(found)
        if delay_s := seconds(reply.delay):
            await self.sleep(delay_s)
        for name, content in reply.files.items():
            self.box.files.write(self.path(name), content.encode() if isinstance(content, str) else content)
        for stream, text in (("stdout", reply.stdout), ("stderr", reply.stderr)):
            if text:
                self._out(stream, text)
        return reply.exit_code


Answer: TypeAlias = "Callable[[FakeCommand], Reply | str | bytes | int | None] | Callable[[FakeCommand], Awaitable[Reply | str | bytes | int | None]]"  # noqa: E501 # one type
Pattern: TypeAlias = "str | re.Pattern[str] | Callable[[FakeCommand], bool]"


@attrs.define
class CommandRule:
    """What answers some commands.

    :param left: how many it still answers; None for all
    """

    pattern: Pattern
    answer: object
    left: int | None = None
    uses: int = 0

    def matches(self, command: FakeCommand) -> bool:
        """Whether it answers *command*."""
        if self.left == 0:
            return False
        match self.pattern:
            case str() as text:
                return text == command.command or fnmatchcase(command.command, text)
            case re.Pattern() as expression:
                return expression.search(command.command) is not None
            case function:
                return cast("Callable[[Any], bool]", function)(command)

    def use(self) -> object:
        """Its answer, for one command more."""
        self.uses += 1
        if self.left is not None:
            self.left -= 1
        return self.answer


def _as_reply(found: str | bytes | int | None) -> Reply:
    if isinstance(found, int):
        return Reply(exit_code=found)
    return Reply(stdout=found or "")
