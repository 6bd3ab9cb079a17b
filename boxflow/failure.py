"""How an exception becomes text that the journal keeps, and which recorded failures stand behind it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import cast

from boxflow.errors import ChildFailedError, StepFailedError
from boxflow.model import Failure

FRAMES = 20
"""How many of the innermost frames a kept traceback shows: more than people read, less than a recursion error has."""

TEXT_CHARS = 16_000
"""The longest message or traceback that is kept; an exception must not fill the journal."""


def failure_of(error: BaseException, *, message: str | None = None) -> Failure:
    """*error* as type name, message and traceback text."""
    kind = type(error)
    # A class made by hand may have no module, or something else in its place.
    module, name = str(kind.__module__), kind.__qualname__
    if module not in ("builtins", "__main__", "None") and not module.startswith("boxflow."):
        name = f"{module}.{name}"
    lines = traceback.format_exception(kind, error, error.__traceback__, limit=-FRAMES)
    return Failure(
        type=name,
        message=printable(_text_of(error) if message is None else message),
        traceback=printable("".join(lines)),
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as refusal:  # noqa: BLE001  # any class may define `__str__`; its failure must not hide this one
        return f"(its text is not to be had: str() raised {type(refusal).__name__})"


def printable(text: str) -> str:
    """*text* as the journal can keep it."""
    # Lone surrogates have no UTF-8 form, and a message may hold anything.
    return text[:TEXT_CHARS].encode("utf-8", "backslashreplace").decode("utf-8")


def causes(error: BaseException) -> tuple[int, ...]:
    """The journal positions of the failed steps and children from which *error* came: itself, its causes, its group."""
    return tuple(sorted({found.seq for found in _chain(error) if isinstance(found, _RECORDED)}))


_RECORDED = (StepFailedError, ChildFailedError)


def _chain(first: BaseException) -> Iterator[BaseException]:
    # A list of what is left, not a recursion: a chain may be longer than the stack is deep.
    left: list[BaseException | None] = [first]
    seen: set[int] = set()
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        left.append(error.__cause__)
        if not error.__suppress_context__:
            left.append(error.__context__)
        if isinstance(error, BaseExceptionGroup):
            left.extend(cast("BaseExceptionGroup[BaseException]", error).exceptions)
