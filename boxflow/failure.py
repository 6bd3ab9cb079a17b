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
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    if kind.__module__.startswith("boxflow."):
        name = kind.__qualname__
    lines = traceback.format_exception(kind, error, error.__traceback__, limit=-FRAMES)
    return Failure(
        type=name,
        message=_printable(_text_of(error) if message is None else message),
        traceback=_printable("".join(lines)),
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as refusal:  # noqa: BLE001  # any class may define `__str__`; its failure must not hide this one
        return f"(its text is not to be had: str() raised {type(refusal).__name__})"


def _printable(text: str) -> str:
    # Lone surrogates have no UTF-8 form, and a message may hold anything.
    return text[:TEXT_CHARS].encode("utf-8", "backslashreplace").decode("utf-8")


def causes(error: BaseException) -> tuple[int, ...]:
    """The journal positions of the failed steps and children from which *error* came: itself, its causes, its group."""
    return tuple(sorted({found.seq for found in _chain(error, set()) if isinstance(found, _RECORDED)}))


_RECORDED = (StepFailedError, ChildFailedError)


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    yield from _chain(error.__cause__, seen)
    if not error.__suppress_context__:
        yield from _chain(error.__context__, seen)
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _chain(inner, seen)
