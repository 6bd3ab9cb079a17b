"""What does a scripted model answer to which request? Turns, prompts, functions, and scripts that are JSON."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from boxflow.errors import ConfigurationError
from boxflow.testing.model_server.errors import ScriptError
from boxflow.testing.model_server.replies import (
    Answer,
    Block,
    CutStream,
    EditFile,
    Fail,
    First,
    Garbage,
    Hang,
    ReadFile,
    Reply,
    RunCommand,
    Say,
    Think,
    Together,
    Tokens,
    Use,
    WriteFile,
)
from boxflow.testing.model_server.request import ModelRequest, turns_in

Decision = Callable[[ModelRequest], Reply | Awaitable[Reply]]
"""A script as a function."""

Script = Sequence[Reply] | Decision
"""The model's turns in each conversation, in order; or a function that decides."""


def decision(script: Script) -> Decision:
    """Any script, as a function."""
    if callable(script):
        return script
    turns = tuple(script)
    return lambda request: _turn(turns, request.turn, "the script")


def prompts(scripts: Mapping[str, Sequence[Reply]]) -> Decision:
    """A script for several prompts: turns by a piece of what the user says.

    The user's last text that holds one of the pieces decides, and turns are counted from there. `""` is in every text:
    put it last, for all that the others do not match.

        ScriptedModel(prompts({"port it to Go": [WriteFile("main.go", "..."), Say("Ported.")], "": [Say("Hello.")]}))
    """
    choices = {piece: tuple(turns) for piece, turns in scripts.items()}

    def decide(request: ModelRequest) -> Reply:
        for index in range(len(request.messages) - 1, -1, -1):
            message = request.messages[index]
            piece = next((one for one in choices if one in message.text), None) if message.role == "user" else None
            if piece is not None:
                turn = request.turn - turns_in(request.messages[:index])
                return _turn(choices[piece], turn, f"the script for {piece!r}")
        raise ScriptError(f"the script has nothing for {request.last_user_text[:200]!r}, only for {list(choices)}")

    return decide


def _turn(turns: Sequence[Reply], turn: int, what: str) -> Reply:
    if turn < len(turns):
        return turns[turn]
    many = "1 turn" if len(turns) == 1 else f"{len(turns)} turns"
    raise ScriptError(f"{what} has {many}, and is asked for one more: end it with a `Say`")


async def decided(decide: Decision, request: ModelRequest) -> Reply:
    """What *decide* says to *request*."""
    reply = decide(request)
    return await reply if inspect.isawaitable(reply) else reply


# --- scripts that are JSON -------------------------------------------------------------------------------------------

_KINDS: Mapping[str, Callable[..., Reply]] = {
    re.sub(r"(?<=.)(?=[A-Z])", "_", kind.__name__).lower(): kind
    for kind in (Say, Think, Use, WriteFile, EditFile, ReadFile, RunCommand, Answer, Fail, CutStream, Hang, Garbage)
}


def script_from_json(data: Any) -> Script:
    r"""The script that *data* describes.

    Either a list of turns, or an object of such lists by pieces of prompts, as for `prompts`. A turn is an object whose
    first key is the kind of reply, with its first value, and whose other keys are the reply's further parameters; a
    list is one answer of several such.

        [{"write_file": "a.txt", "text": "hello\n"}, {"say": "Done.", "tokens": {"input": 900, "output": 12}}]
        {"port": [{"first": {"fail": 529}, "then": {"say": "Ported."}}], "": [{"say": "Hello."}]}

    :raises ConfigurationError: it describes none
    """
    match data:
        case list():
            return _turns(data, "the script")
        case dict():
            scripts = cast("dict[str, Any]", data)
            return prompts({piece: _turns(turns, f"the script for {piece!r}") for piece, turns in scripts.items()})
        case _:
            raise ConfigurationError(f"a script is a list of turns, or an object of such lists; not {data!r:.200}")


def _turns(data: Any, what: str) -> Sequence[Reply]:
    if not isinstance(data, list):
        raise ConfigurationError(f"{what} must be a list of turns; it is {data!r:.200}")
    turns = cast("Sequence[Any]", data)
    return [_reply(turn, f"{what}, turn {number}") for number, turn in enumerate(turns, start=1)]


def _reply(data: Any, what: str) -> Reply:
    if isinstance(data, list):
        blocks = cast("Sequence[Any]", data)
        return Together([cast("Block", _reply(one, what)) for one in blocks])
    if not isinstance(data, dict) or not data:
        raise ConfigurationError(f"{what}: {data!r:.200} is no reply; write one as in {{'say': 'Hello.'}}")
    parameters = cast("dict[str, Any]", data).copy()
    kind, first = next(iter(parameters.items()))
    del parameters[kind]
    if "tokens" in parameters:
        parameters["tokens"] = Tokens(**parameters["tokens"])
    if "then" in parameters:
        parameters["then"] = _reply(parameters["then"], what)
    if kind == "first":
        return First(_reply(first, what), **parameters)
    if kind not in _KINDS:
        raise ConfigurationError(f"{what}: {kind!r} is no kind of reply; those are first, {', '.join(sorted(_KINDS))}")
    try:
        return _KINDS[kind](first.encode() if kind == "garbage" else first, **parameters)
    except TypeError as exc:
        raise ConfigurationError(f"{what}: {kind!r} cannot be made of {data!r:.200}: {exc}") from exc
