"""What does git do in a box in memory? Clones what the script has, and tells what has changed since.

Contents by path, a commit at a time; no branches, no index. What a test needs that is more than that, a rule answers.
"""

from __future__ import annotations

import difflib
import hashlib
import shlex
from typing import Final

from boxflow.testing.errors import UnansweredError
from boxflow.testing.fake_sandbox.commands import FakeCommand, Reply
from boxflow.testing.fake_sandbox.file_tree import WORK

_MODE: Final = "100644"
_FATAL: Final = 128
"""How git exits when it cannot do what it was asked."""


class FakeGit:
    """Answers `git`.

    :ivar repositories: what can be cloned: contents by path, for each URL
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}

    def __call__(self, command: FakeCommand) -> Reply:
        """Do what *command* says, in its directory."""
        words = shlex.split(command.command)[1:]
        verb, rest = (words[0] if words else ""), words[1:]
        if verb not in ("clone", "init") and _directory(command) not in command.box.commits:
            return Reply(exit_code=_FATAL, stderr="fatal: not a git repository (or any of the parent directories)\n")
        match verb:
            case "clone":
                return self._clone(command, [word for word in rest if not word.startswith("-")])
            case "diff":
                paths = [word for word in rest[1:] if word != "--"]
                return Reply(stdout=_diff(_head(command), _files(command), paths))
            case "status":
                return Reply(stdout=_status(command))
            case "commit":
                return _commit(command)
            case "rev-parse" if rest == ["HEAD"]:
                return Reply(stdout=_hash(_commits(command)[-1]) + "\n")
            case "init":
                command.box.commits.setdefault(_directory(command), [{}])
                return Reply()
            case "checkout" | "push" | "fetch" | "pull" | "config" | "add" | "branch":
                return Reply()
            case _:
                raise UnansweredError(
                    f"git in a box in memory cannot {command.command!r}; answer it: "
                    f"sandbox.on({command.command!r}, stdout=...)"
                )

    def _clone(self, command: FakeCommand, words: list[str]) -> Reply:
        url, place = words[0], (words[1] if len(words) > 1 else ".")
        box = command.box
        directory = command.path(place)
        key = _key(directory)
        if key in box.commits:
            return Reply()  # As `box.git.clone` does: where the clone is, it stays as it is.
        if url not in self.repositories:
            known = ", ".join(map(repr, self.repositories)) or "none"
            raise UnansweredError(
                f"nothing is known of the repository {url!r} (known: {known}); give its files: "
                f"sandbox.repository({url!r}, {{'README.md': '...'}})"
            )
        box.files.make_directory(directory)
        if box.files.list(directory):
            return Reply(exit_code=_FATAL, stderr=f"fatal: destination path '{place}' already exists\n")
        files = self.repositories[url]
        for path, data in files.items():
            box.files.write(f"{directory}/{path}", data)
        box.commits[key] = [dict(files)]
        return Reply()


def _commits(command: FakeCommand) -> list[dict[str, bytes]]:
    return command.box.commits[_directory(command)]


def _head(command: FakeCommand) -> dict[str, bytes]:
    return _commits(command)[-1]


def _files(command: FakeCommand) -> dict[str, bytes]:
    files, top = command.box.files, command.path(".")
    return {
        info.path: files.read(f"{top}/{info.path}") for info in files.list(top, recursive=True) if info.kind == "file"
    }


def _commit(command: FakeCommand) -> Reply:
    files = _files(command)
    if files == _head(command):
        return Reply(exit_code=1, stdout="nothing to commit, working tree clean\n")
    _commits(command).append(files)
    return Reply(stdout=_hash(files) + "\n")


def _status(command: FakeCommand) -> str:
    before, after = _head(command), _files(command)
    fields = [f"# branch.oid {_hash(before)}", "# branch.head main"]
    zeros = "0" * 40
    for path in sorted({*before, *after}):
        if path not in before:
            fields.append(f"? {path}")
        elif before[path] != after.get(path):
            letter = "D" if path not in after else "M"
            fields.append(f"1 .{letter} N... {_MODE} {_MODE} {_MODE} {zeros} {zeros} {path}")
    return "".join(f"{field}\0" for field in fields)


def _diff(before: dict[str, bytes], after: dict[str, bytes], paths: list[str]) -> str:
    parts: list[str] = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new or (paths and not any(path == one or path.startswith(f"{one}/") for one in paths)):
            continue
        parts.append(f"diff --git a/{path} b/{path}\n")
        if old is None:
            parts.append(f"new file mode {_MODE}\n")
        elif new is None:
            parts.append(f"deleted file mode {_MODE}\n")
        parts += _hunks(old, new, path)
    return "".join(parts)


def _hunks(old: bytes | None, new: bytes | None, path: str) -> list[str]:
    names = ("/dev/null" if old is None else f"a/{path}"), ("/dev/null" if new is None else f"b/{path}")
    before, after = ((text or b"").decode(errors="replace").splitlines(keepends=True) for text in (old, new))
    return [
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(before, after, *names)
    ]


def _hash(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.encode(errors="surrogateescape") + b"\0" + hashlib.sha256(files[path]).digest())
    return digest.hexdigest()[:40]


def _directory(command: FakeCommand) -> str:
    return _key(command.path("."))


def _key(path: str) -> str:
    absolute = path if path.startswith("/") else f"{WORK}/{path}"
    return "/".join(word for word in absolute.split("/") if word not in ("", "."))
