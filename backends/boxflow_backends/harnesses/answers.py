"""How does an agent give a structured answer whose program knows none: what is it told, and where is it found?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from boxflow.harness import AgentFailure, Finished
from boxflow_backends.harnesses.json_values import MISSING, object_text, parsed

_LONGEST: Final = 4 * 1024**2
"""Characters from the end of a text that are looked through."""

_ATTEMPTS: Final = 50_000
"""How often something is tried that turns out to be no JSON; without a bound, a text of brackets takes minutes."""

_WINDOW: Final = 64 * 1024
"""Characters. The decoder counts the lines up to an error, so that it must not be given all the text before it."""

_FENCED = re.compile(r"```\w*\s*\n(.*?)\n?```", re.DOTALL)
_OBJECT = re.compile(r"\{(?=\s*[\"}])")
_OBJECT_OR_LIST = re.compile(r"\{(?=\s*[\"}])|\[(?=\s*[\"{\[\]\-0-9tfn])")
_DECODER = json.JSONDecoder()


def asking(prompt: str, schema: Mapping[str, Any] | None) -> str:
    """*prompt*, and that the answer must fit *schema*."""
    if schema is None:
        return prompt
    return (
        f"{prompt}\n\nWhen you are done, answer only with one JSON document that fits this JSON schema, "
        f"without any other word and without a code fence:\n{object_text(schema)}\n"
    )


def answer_in(text: str, schema: Mapping[str, Any]) -> object:
    """The JSON document that *text* is, or the last one that is in it; `MISSING` when there is none.

    Between other words, only objects count when the schema asks for one, and only objects and lists in any case: prose
    is full of numbers.
    """
    fenced = _FENCED.fullmatch(text.strip())
    whole = parsed(fenced[1] if fenced else text)
    if whole is not MISSING:
        return whole
    return _last_document(text[-_LONGEST:], _OBJECT if schema.get("type") == "object" else _OBJECT_OR_LIST)


def _last_document(text: str, opening: re.Pattern[str]) -> object:
    found: object = MISSING
    position, failed, looked_at = 0, 0, 0
    while failed < _ATTEMPTS and looked_at < _LONGEST and (match := opening.search(text, position)):
        position = match.start()
        if position > _WINDOW:
            text, position = text[position:], 0
        try:
            _, end = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError as error:
            looked_at += error.pos - position
            end = position + 1
            failed += 1
        except (ValueError, RecursionError):  # too many digits, or too many brackets within another
            looked_at += _LONGEST // 100
            end = position + 1
        else:
            value = parsed(text[position:end])
            found = found if value is MISSING else value
        position = end
    return found


def with_answer(finished: Finished, schema: Mapping[str, Any] | None) -> Finished:
    """A success with the answer that its text holds, where one was asked for; a failure when it holds none."""
    if schema is None or finished.failure is not None:
        return finished
    answer = answer_in(finished.text, schema)
    if answer is MISSING:
        message = "the agent was asked for JSON, and its answer holds none"
        return attrs.evolve(finished, failure=AgentFailure.BAD_OUTPUT, message=message)
    return attrs.evolve(finished, structured=answer)
