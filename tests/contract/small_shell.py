"""A shell for boxes that are only in memory: as much of `sh` as the sandbox contract prepares and looks at files with.

It reads and writes nothing but the box's own file tree, by the rules of `FakeSandbox.on`. No pipes, no loops, no jobs:
a script that has them needs a real box.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from boxflow.errors import BoxFileNotFoundError, SandboxError
from boxflow.testing import FakeCommand
from boxflow.testing.fake_sandbox.file_tree import WORK

_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+)|\$)")
_NO_SHELL = re.compile(r"[|`]|\$\(|\b(?:while|until|trap|wait|for|case|exec)\b|(?<!&)&(?!&|\d)")


class Exit(Exception):
    """`exit`, or `set -e`."""


async def shell(command: FakeCommand) -> int:
    """Carry out the script of *command*."""
    argv = command.argv
    if argv[:2] == ("sh", "-c"):
        # `box.exec.command` hands its text over behind a script that looks for bash.
        text = argv[3] if len(argv) == 4 and argv[2].startswith("command -v bash") else argv[2]
        script = _Script(command, list(argv[3:] if text is argv[2] else ()))
    else:
        script, text = _Script(command, []), shlex.join(argv)
    if _NO_SHELL.search(re.sub(r"'[^']*'|\"[^\"`]*\"", "", text)):
        raise SandboxError(f"needs a real shell: {text!r}")
    return await script.run(text)


class _Script:
    def __init__(self, command: FakeCommand, arguments: list[str]) -> None:
        self.command = command
        self.tree = command.box.files
        self.directory = command.path(".") if command.cwd else WORK
        self.variables: dict[str, str] = {**command.env, "PWD": self.directory}
        self.variables |= {str(number): word for number, word in enumerate(arguments)}
        self.status = 0

    async def run(self, text: str) -> int:
        try:
            for part in _parts(text):
                if part == "&&" and self.status:
                    break
                if part not in ("&&", ";"):
                    self.status = await self._one(part)
        except Exit:
            pass
        return self.status

    async def _one(self, part: str) -> int:
        words = [self._expanded(word) for word in _words(part)]
        out: list[bytes] = []
        to, append, source = None, False, b""
        kept: list[str] = []
        while words:
            word = words.pop(0)
            if word in ("\0>", "\0>>"):
                to, append = words.pop(0), word == "\0>>"
            elif word == "\0<":
                source = self.tree.read(self._path(words.pop(0)))
            elif word == "\0>&2":
                to = "&2"
            else:
                kept.append(word)
        name, rest = kept[0], kept[1:]
        if name in ("cat", "wc") and not source and not [word for word in rest if not word.startswith("-")]:
            source = await self.command.read()
        program: Callable[..., Any] | None = getattr(self, f"do_{'test' if name == '[' else name.lstrip('.:/')}", None)
        if name == ":":
            program = self.do_true
        if program is None:
            return await self._file(name)
        try:
            status = program(out, rest, source)
        except BoxFileNotFoundError as error:
            self.command.write_error(f"{name}: {error}: No such file or directory\n")
            return 1
        self._give(b"".join(out), to, append=append)
        return int(status or 0)

    def _give(self, data: bytes, to: str | None, *, append: bool) -> None:
        if to == "&2":
            self.command.write_error(data)
        elif to is None:
            self.command.write(data)
        elif to != "/dev/null":
            before = self.tree.read(self._path(to)) if append and self.tree.exists(self._path(to)) else b""
            self.tree.write(self._path(to), before + data)

    async def _file(self, name: str) -> int:
        path = self._path(name)
        try:
            text = self.tree.read(path)
        except SandboxError:
            self.command.write_error(f"{name}: not found\n")
            return 127
        if not self.tree.stat(path).mode & 0o100:
            return 126
        return await self.run(text.decode())

    def _path(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.directory}/{name}"

    def _expanded(self, word: str) -> str:
        def value(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "1"
            return self.variables.get(match[1] or match[3], match[2] or "")

        return "".join(
            piece[1:] if piece.startswith("\1") else _VARIABLE.sub(value, piece) for piece in word.split("\2")
        )

    # --- programs -----------------------------------------------------------------------------------------------------

    def do_echo(self, out: list[bytes], words: list[str], source: bytes) -> None:
        out.append((" ".join(words) + "\n").encode(errors="surrogateescape"))

    def do_printf(self, out: list[bytes], words: list[str], source: bytes) -> None:
        form, rest = words[0].replace("\\n", "\n"), words[1:]
        out.append("".join(form.replace("%s", word) for word in rest or [""]).encode())

    def do_cat(self, out: list[bytes], words: list[str], source: bytes) -> None:
        out += [self.tree.read(self._path(word)) for word in words] or [source]

    def do_mkdir(self, out: list[bytes], words: list[str], source: bytes) -> None:
        mode = int(words[words.index("-m") + 1], 8) if "-m" in words else None
        for word in words:
            if not word.startswith("-") and not (mode is not None and word == f"{mode:o}"):
                self.tree.make_directory(self._path(word))
                if mode is not None:
                    self.tree.chmod(self._path(word), mode)

    def do_ln(self, out: list[bytes], words: list[str], source: bytes) -> None:
        if words[0] == "-s":
            self.tree.link(words[1], self._path(words[2]))
        else:
            self.tree.write(self._path(words[1]), self.tree.read(self._path(words[0])))

    def do_chmod(self, out: list[bytes], words: list[str], source: bytes) -> None:
        for word in words[1:]:
            self.tree.chmod(self._path(word), int(words[0], 8))

    def do_ls(self, out: list[bytes], words: list[str], source: bytes) -> None:
        shown = [word for word in words if not word.startswith("-")] or ["."]
        infos = self.tree.list(self._path(shown[0]))
        out += [f"{info.path}\n".encode() for info in infos if "-A" in words or not info.path.startswith(".")]

    def do_pwd(self, out: list[bytes], words: list[str], source: bytes) -> None:
        out.append(re.sub(r"/\.(?=/|$)", "", re.sub(r"^(?!/)", f"{WORK}/", self.directory)).encode() + b"\n")

    def do_cd(self, out: list[bytes], words: list[str], source: bytes) -> None:
        self.tree.list(self._path(words[0]))
        self.directory = self.variables["PWD"] = self._path(words[0])

    def do_touch(self, out: list[bytes], words: list[str], source: bytes) -> None:
        node = self.tree.find(self._path(words[-1]), follow=True).node
        assert node is not None and words[0] == "-d"
        node.modified_at = float(words[1].lstrip("@"))

    def do_mkfifo(self, out: list[bytes], words: list[str], source: bytes) -> None:
        self.tree.make_other(self._path(words[0]))

    def do_stat(self, out: list[bytes], words: list[str], source: bytes) -> None:
        out += [f"{self.tree.stat(self._path(word)).mode:o}\n".encode() for word in words[2:]]

    def do_readlink(self, out: list[bytes], words: list[str], source: bytes) -> None:
        for word in words:
            node = self.tree.find(self._path(word), follow=False).node
            assert node is not None
            out.append(f"{node.target}\n".encode())

    def do_rm(self, out: list[bytes], words: list[str], source: bytes) -> None:
        self.tree.remove(self._path(words[-1]))

    def do_wc(self, out: list[bytes], words: list[str], source: bytes) -> None:
        out.append(f"{len(source)}\n".encode())

    def do_env(self, out: list[bytes], words: list[str], source: bytes) -> None:
        out += [f"{name}={value}\n".encode() for name, value in self.variables.items()]

    def do_export(self, out: list[bytes], words: list[str], source: bytes) -> None:
        for word in words:
            name, _, value = word.partition("=")
            self.variables[name] = value

    def do_test(self, out: list[bytes], words: list[str], source: bytes) -> int:
        wanted = words[0] != "!"
        operator, path = words[-3:-1]
        there = self.tree.exists(self._path(path))
        if there and operator == "-d":
            there = self.tree.stat(self._path(path)).kind == "directory"
        return int(there != wanted)

    def do_exit(self, out: list[bytes], words: list[str], source: bytes) -> None:
        self.status = int(words[0])
        raise Exit

    def do_true(self, out: list[bytes], words: list[str], source: bytes) -> None: ...

    def do_false(self, out: list[bytes], words: list[str], source: bytes) -> int:
        return 1


def _parts(text: str) -> list[str]:
    """The commands of a script, and what stands between them."""
    between = r"(&&|;|\n)(?=(?:[^'\"]|'[^']*'|\"[^\"]*\")*$)"
    return [part.strip() for part in re.split(between, text) if part.strip() and part[0] != "#"]


def _words(part: str) -> list[str]:
    """Words with their quotes taken away. What stood in single quotes is marked, and not looked into for variables."""
    tokens = re.findall(r">>|>&2|>|<|(?:[^\s'\"<>]|'[^']*'|\"(?:\\.|[^\"])*\")+", part)
    return [f"\0{token}" if token in (">", ">>", "<", ">&2") else _unquoted(token) for token in tokens]


def _unquoted(token: str) -> str:
    pieces = re.findall(r"'[^']*'|\"(?:\\.|[^\"])*\"|[^'\"]+", token)
    return "\2".join(f"\1{piece[1:-1]}" if piece.startswith("'") else piece.strip('"') for piece in pieces)
