"""Do two bodies wait for the same? Their pending operations, compared by key, kind and argument."""

from __future__ import annotations

import functools
import math
import re
import types
from collections.abc import Mapping
from typing import Any, cast

from boxflow.execution import Execution
from boxflow.journal import ChildCall, Operation, StepCall

DEEPEST = 6
"""How deep arguments are looked into; what lies deeper counts as the same."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

_Function = types.FunctionType


def waits_for(execution: Execution) -> tuple[str, ...]:
    """What the body waits for, a text for each operation, in the order in which they were issued."""
    return tuple(str(operation) for operation in execution.journal.pending.values())


def argument_text(operation: Operation) -> str:
    """What the call was given, as text: to be compared with what another body gives it at the same position."""
    match operation:
        case StepCall():
            return _text(operation.args)
        case ChildCall():
            return _child(operation)
        case _:
            return ""  # A wait says in its own text what it waits for.


def difference(first: Execution, second: Execution) -> str | None:
    """How *second* differs from *first*, both at the same position of one journal; None when they do not."""
    # That they wait for the same calls has been compared before.
    for one, other in zip(first.journal.pending.values(), second.journal.pending.values(), strict=True):
        found = _argument(one, other)
        if found is not None:
            return found
    if (first.status, first.closed) != (second.status, second.closed):
        return f"it was {_ended(first)}, and is now {_ended(second)}"
    if first.status is not None and first.result != second.result:
        return f"it returned {_short(first.result.decode())}, and now {_short(second.result.decode())}"
    if first.error is not None and second.error is not None and first.error.type != second.error.type:
        return f"it ended with {first.error}, and now with {second.error}"
    if first.loop.next_due() != second.loop.next_due():
        return f"its next timer was due at {first.loop.next_due()}, and is now at {second.loop.next_due()}"
    return None


def _argument(one: Operation, other: Operation) -> str | None:
    match one, other:
        case StepCall(), StepCall():
            if not _same(one.args, other.args, 0):
                return f"the arguments of {one} were {_short(one.args)}, and are now {_short(other.args)}"
            if not _same(one.fn, other.fn, 0):
                return f"the function of {one}, or what it has of the body, was another"
        case ChildCall(), ChildCall():
            if (one.workflow, one.child_id, one.payload) != (other.workflow, other.child_id, other.payload):
                return f"{one} was {_child(one)}, and is now {_child(other)}"
        case _:
            # A wait says in its text what it waits for.
            if one.when != other.when:
                return f"the end of {one} was at {one.when}, and is now at {other.when}"
    return None


def _child(call: ChildCall) -> str:
    return f"{call.workflow!r} as {call.child_id!r} with {_short(call.payload.decode())}"


def _same(one: Any, other: Any, depth: int) -> bool:
    if one is other or depth > DEEPEST:
        return True
    if type(one) is not type(other):
        # A call of a box holds its execution: that of the run is audited, that of the rebuilt body is a plain one.
        return isinstance(one, Execution) and isinstance(other, Execution)
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, tuple | list | Mapping):
        return _same_members(_members(one), _members(other), depth)
    if isinstance(one, types.FunctionType):
        return _same_function(one, other, depth)
    if isinstance(one, types.MethodType):
        return one.__func__ is other.__func__ and _same(one.__self__, other.__self__, depth + 1)
    if isinstance(one, functools.partial):
        parts: list[Any] = [one.func, one.args, one.keywords]
        return _same_members(parts, [other.func, other.args, other.keywords], depth)
    return _same_object(one, other, depth)


def _members(container: Any) -> list[Any]:
    return list(container.items() if hasattr(container, "items") else container)


def _same_members(ours: list[Any], theirs: list[Any], depth: int) -> bool:
    return len(ours) == len(theirs) and all(
        _same(one, other, depth + 1) for one, other in zip(ours, theirs, strict=True)
    )


def _same_function(one: _Function, other: _Function, depth: int) -> bool:
    # A body that was compiled again has code of its own for the functions in it.
    ours, theirs = one.__code__, other.__code__
    if (ours.co_name, ours.co_firstlineno) != (theirs.co_name, theirs.co_firstlineno):
        return False
    cells = zip(one.__closure__ or (), other.__closure__ or (), strict=False)
    held = all(_same(_content(a), _content(b), depth + 1) for a, b in cells)
    return held and _same(one.__defaults__, other.__defaults__, depth + 1)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # Not assigned yet.
        return None


def _same_object(one: Any, other: Any, depth: int) -> bool:
    kind = cast(Any, type(one))
    if kind.__eq__ is object.__eq__:
        # Equal only to itself, and each body makes its own: then what they hold must be the same. Of things of the
        # engine, such as a box or a context, each body has another.
        if kind.__module__.startswith(("boxflow.", "asyncio", "_asyncio", "anyio")) or not hasattr(one, "__dict__"):
            return True
        return _same(vars(one), vars(other), depth + 1)
    try:
        return bool(one == other) or _text(one) == _text(other)
    except Exception:  # noqa: BLE001 - anybody's `__eq__`, which may answer with an array or raise
        return _text(one) == _text(other)


def _text(value: object) -> str:
    try:
        return _ADDRESS.sub("", repr(value))
    except Exception:  # noqa: BLE001 - anybody's `__repr__`
        return type(value).__qualname__


def _short(value: object) -> str:
    text = value if isinstance(value, str) else _text(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _ended(execution: Execution) -> str:
    return "still running" if execution.status is None else f"{execution.status}"
