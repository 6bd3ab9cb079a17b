"""How did a program end, and what kind of failure is that?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs

from boxflow.harness import AgentFailure, Finished
from boxflow_backends.harnesses.json_values import clean

_ASKED_TO_END: Final = frozenset({128 + 1, 128 + 2, 128 + 9, 128 + 15})
"""Ended by signal n: HUP, INT, KILL and TERM are sent by somebody, the others are the program's own fault."""

_NOT_TO_BE_FOUND: Final = 127
"""What a shell says of a program that it does not find (POSIX, "Exit Status for Commands")."""

_STDERR_TAIL: Final = 2000

Wordings = Sequence[tuple[re.Pattern[str], AgentFailure]]
"""What a program says about a failure, and what it means; the first that is found decides."""


def wordings(*pairs: tuple[str, AgentFailure]) -> Wordings:
    """Regular expressions, upper or lower case, and what they mean."""
    return [(re.compile(pattern, re.IGNORECASE), failure) for pattern, failure in pairs]


def _status(numbers: str) -> str:
    """An HTTP status in prose, which is not any number: not that of a line in a traceback."""
    return rf"\b(?:status|http(?:/[\d.]+)?|error code)(?: code)?[:=( ]*(?:{numbers})\b"


NO_CREDIT: Final = wordings(
    (_status("402") + r"|payment required|insufficient_quota|billing_error", AgentFailure.BUDGET),
    (r"boxflow: the (?:budget|limits) of", AgentFailure.BUDGET),
)
"""How services, and the gateway, say that nothing is left to spend. OpenAI's do it with the status of another error."""

COMMON: Final = [
    *NO_CREDIT,
    *wordings(
        (_status("40[13]") + r"|unauthori[sz]ed|authentication", AgentFailure.AUTHENTICATION),
        (r"(?:invalid|incorrect|missing)[\w -]*api.?key", AgentFailure.AUTHENTICATION),
        (_status("429") + r"|too many requests|rate.?limit|quota|usage limit", AgentFailure.RATE_LIMITED),
        (_status(r"408|5\d\d") + r"|overloaded|high demand|stream disconnected", AgentFailure.MODEL_UNAVAILABLE),
        (
            r"connection (?:refused|reset|failed|error|closed)|cannot connect|network error",
            AgentFailure.MODEL_UNAVAILABLE,
        ),
        (r"timed out|timeout", AgentFailure.MODEL_UNAVAILABLE),
        (_status(r"4\d\d") + r"|invalid.?request|bad request|context (?:window|length)", AgentFailure.BAD_REQUEST),
    ),
]
"""How services and clients name their errors in prose, most telling first."""


def failure_of_status(status: int) -> AgentFailure | None:
    """What an HTTP status of a model's service means; None when it is no error."""
    match status:
        case 401 | 403:
            return AgentFailure.AUTHENTICATION
        case 402:
            return AgentFailure.BUDGET
        case 429:
            return AgentFailure.RATE_LIMITED
        case 408:
            return AgentFailure.MODEL_UNAVAILABLE
        case _ if 400 <= status < 500:
            return AgentFailure.BAD_REQUEST
        case _ if 500 <= status < 600:  # 529 is Anthropic's "overloaded"
            return AgentFailure.MODEL_UNAVAILABLE
        case _:
            return None


def failure_of_words(message: str, *known: Wordings) -> AgentFailure | None:
    """What *message* means, by the first of the *known* wordings that is found in it."""
    for pattern, failure in (pair for group in known for pair in group):
        if pattern.search(message):
            return failure
    return None


def tail(stderr: str) -> str:
    """The last words on stderr, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", clean(stderr[-_STDERR_TAIL:])).strip()


def interrupted(exit_code: int) -> bool:
    """Whether somebody ended the program by a signal."""
    return exit_code in _ASKED_TO_END


def ended(
    program: str, read: Finished | None, so_far: Finished, exit_code: int, stderr: str, *known: Wordings
) -> Finished:
    """How the run ended.

    :param read: what the program said itself about how it ended
    :param so_far: what is known without that: words, usage, session
    :param known: what it says on stderr, and what that means
    """
    words = tail(stderr)
    if read is None:
        return _without_a_word(program, so_far, exit_code, words, known)
    if read.failure is not None:
        return read if read.message else attrs.evolve(read, message=words or f"{program} failed and does not say why")
    # A signal after the result met only its tidying up: what was asked for is there.
    if exit_code == 0 or interrupted(exit_code):
        return read
    message = f"{program} gave a result and then exited with {exit_code}" + (f": {words}" if words else "")
    return attrs.evolve(read, failure=AgentFailure.CRASHED, message=message)


def _without_a_word(program: str, so_far: Finished, exit_code: int, words: str, known: Sequence[Wordings]) -> Finished:
    if interrupted(exit_code):
        message = f"{program} was ended by signal {exit_code - 128}"
        return attrs.evolve(so_far, failure=AgentFailure.INTERRUPTED, message=message)
    if exit_code == 0:
        failure = failure_of_words(words, *known) or AgentFailure.BAD_OUTPUT
        message = f"{program} exited with 0, but its output ends without a result"
    else:
        failure = AgentFailure.CRASHED
        if exit_code != _NOT_TO_BE_FOUND:
            failure = failure_of_words(words, *known) or failure
        message = f"{program} exited with {exit_code}"
    return attrs.evolve(so_far, failure=failure, message=message + (f": {words}" if words else ""))
