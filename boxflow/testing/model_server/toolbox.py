"""With which tool of the asking program does the model write a file, edit one, read one, or run a command?"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from boxflow.testing.model_server.errors import ScriptError
from boxflow.testing.model_server.replies import EditFile, ReadFile, RunCommand, Use, WriteFile
from boxflow.testing.model_server.request import ModelRequest, Tool

# Names of tools and of their arguments: in Claude Code 2.1, opencode 1.18, pi 0.73, mini-swe-agent 2.4; Codex 0.169.
_WRITERS: Final = ("Write", "write", "write_file", "create_file")
_EDITORS: Final = ("Edit", "edit", "edit_file")
_READERS: Final = ("Read", "read", "read_file")
_SHELLS: Final = ("Bash", "bash", "exec_command", "shell_command", "shell", "run_command")
_PATHS: Final = ("file_path", "filePath", "path")
_CONTENTS: Final = ("content", "contents", "text")
_OLDS: Final = ("old_string", "oldString", "oldText", "old_text")
_NEWS: Final = ("new_string", "newString", "newText", "new_text")
_COMMANDS: Final = ("command", "cmd")

# Codex's tool for files takes a text; in its "code mode" it is a function that JavaScript given to `exec` can call.
_PATCH: Final = "apply_patch"
_CODE: Final = "exec"


def concrete(wish: Use | WriteFile | EditFile | ReadFile | RunCommand, request: ModelRequest) -> Use:
    """The use of a tool that *request* offers.

    :raises ScriptError: it offers none that will do
    """
    match wish:
        case Use():
            return Use(_named(wish.tool, request.tools), wish.input)
        case WriteFile():
            return _write(wish, request)
        case EditFile():
            return _edit(wish, request)
        case ReadFile():
            if tool := _offered(_READERS, request):
                return Use(tool.name, _filled(tool, {_PATHS: _absolute(wish.path, request)}))
            return _run(f"cat {shlex.quote(wish.path)}", request)
        case RunCommand():
            return _run(wish.command, request)


def _named(wanted: str, tools: Mapping[str, Tool]) -> str:
    if wanted in tools:
        return wanted
    alike = [name for name in tools if name.endswith((f"_{wanted}", f".{wanted}"))]
    if len(alike) > 1:
        raise ScriptError(f"Use({wanted!r}) may be any of {', '.join(alike)}: write its whole name")
    return alike[0] if alike else wanted


def _offered(names: Sequence[str], request: ModelRequest) -> Tool | None:
    # A tool that takes free text of that name is another one.
    return next((request.tools[one] for one in names if one in request.tools and request.tools[one].schema), None)


def _filled(tool: Tool, values: Mapping[Sequence[str], str]) -> dict[str, Any]:
    """Arguments for *tool*, each under the name that it has there; what else the tool demands is a short text."""
    given = {tool.first_of(names) or names[0]: value for names, value in values.items()}
    demanded: Sequence[str] = tool.schema.get("required") or ()
    return {**{name: "scripted" for name in demanded if name not in given}, **given}


def _absolute(path: str, request: ModelRequest) -> str:
    return posixpath.join(request.working_directory or "", path)


# --- files -----------------------------------------------------------------------------------------------------------


def _write(wish: WriteFile, request: ModelRequest) -> Use:
    if tool := _offered(_WRITERS, request):
        return Use(tool.name, _filled(tool, {_PATHS: _absolute(wish.path, request), _CONTENTS: wish.text}))
    # A patch is made of whole lines; any other text has to be written by the shell.
    if _takes_patches(request) and wish.text.endswith("\n"):
        return _patch([f"*** Add File: {wish.path}", *_prefixed("+", wish.text)], request)
    folder = posixpath.dirname(wish.path)
    make = f"mkdir -p {shlex.quote(folder)} && " if folder else ""
    return _run(f"{make}printf %s {shlex.quote(wish.text)} > {shlex.quote(wish.path)}", request)


def _edit(wish: EditFile, request: ModelRequest) -> Use:
    if tool := _offered(_EDITORS, request):
        path = _absolute(wish.path, request)
        return Use(tool.name, _filled(tool, {_PATHS: path, _OLDS: wish.old, _NEWS: wish.new}))
    if _takes_patches(request):
        change = [*_prefixed("-", wish.old), *_prefixed("+", wish.new)]
        return _patch([f"*** Update File: {wish.path}", "@@", *change], request)
    raise ScriptError(f"no tool to edit {wish.path!r} is offered, only {_list(request)}; use RunCommand")


def _prefixed(sign: str, text: str) -> Iterator[str]:
    # Not `splitlines`, which also breaks at form feeds and at separators of paragraphs.
    return (sign + line for line in text.removesuffix("\n").split("\n")) if text else iter(())


def _takes_patches(request: ModelRequest) -> bool:
    tool = request.tools.get(_PATCH)
    return _has_code(request) or (tool is not None and tool.free_text)


def _patch(lines: Sequence[str], request: ModelRequest) -> Use:
    patch = "\n".join(["*** Begin Patch", *lines, "*** End Patch"]) + "\n"
    if _has_code(request):
        return Use(_CODE, f"text(await tools.apply_patch({json.dumps(patch)}));")
    return Use(_PATCH, patch)


# --- commands --------------------------------------------------------------------------------------------------------


def _has_code(request: ModelRequest) -> bool:
    tool = request.tools.get(_CODE)
    return tool is not None and tool.free_text


def _run(command: str, request: ModelRequest) -> Use:
    if _has_code(request):
        return Use(_CODE, f"text(await tools.exec_command({json.dumps({'cmd': command})}));")
    tool = _offered(_SHELLS, request)
    if tool is None:
        raise ScriptError(f"no tool to run {command!r} is offered, only {_list(request)}")
    key = tool.first_of(_COMMANDS) or _COMMANDS[0]
    # Codex had a `shell` tool that takes the words of a command.
    in_words = tool.schema.get("properties", {}).get(key, {}).get("type") == "array"
    return Use(tool.name, {**_filled(tool, {(key,): command}), key: ["sh", "-c", command] if in_words else command})


def _list(request: ModelRequest) -> str:
    return ", ".join(sorted(request.tools)) or "no tools at all"
