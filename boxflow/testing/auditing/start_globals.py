"""Does a body depend on globals that change while it runs? After a restart they are as at the start of the program."""

from __future__ import annotations

import copy
import dis
from collections import deque
from collections.abc import Callable
from types import CellType, CodeType, FunctionType
from typing import Any, Final, cast

import attrs

LARGEST = 200
"""Containers with more entries are not remembered: copying them would take longer than the test."""

_CONTAINERS: Final = (list, dict, set, bytearray, deque)
_PLAIN: Final = (int, float, str, bytes, type(None))


@attrs.frozen(kw_only=True)
class StartGlobals:
    """The plain data that a body has from outside of itself, as it was: its module's globals, and its closure's."""

    function: Any  # A FunctionType, which type checkers would bind to the instance.
    names: dict[str, Any]
    cells: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> StartGlobals | None:
        """What *function* has now; None when it has nothing that could change."""
        if not isinstance(function, FunctionType):
            return None
        outside = function.__globals__
        names: dict[str, Any] = {
            name: _copied(outside[name])
            for name in _names(function.__code__)
            if name in outside and _is_kept(outside[name])
        }
        cells = {name: _copied(value) for name, value in _contents(function).items() if _is_kept(value)}
        return cls(function=function, names=names, cells=cells) if names or cells else None

    def changed(self) -> list[str]:
        """The names of what is no longer as it was."""
        now = _contents(self.function)
        changed = [name for name, value in self.names.items() if self.function.__globals__.get(name) != value]
        return changed + [name for name, value in self.cells.items() if now.get(name) != value]

    def function_of_the_start(self) -> Callable[..., Any]:
        """The body, with everything as it was; what it changes is a copy."""
        function = self.function
        cells = tuple(
            CellType(_copied(self.cells[name])) if name in self.cells else cell
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        )
        names = {name: _copied(value) for name, value in self.names.items()}
        again = FunctionType(
            function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__, cells
        )
        again.__kwdefaults__ = function.__kwdefaults__
        return again

    def line_of(self, name: str) -> str:
        """Where the body reads *name* first, as `file:line in function`."""
        code, line = _first_read(self.function.__code__, name) or (self.function.__code__, None)
        return f"{code.co_filename}:{line or code.co_firstlineno} in {code.co_qualname}"


def _contents(function: FunctionType) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # Not assigned yet.
            continue
    return found


def _names(code: CodeType) -> list[str]:
    found = dict.fromkeys(code.co_names)
    for each in code.co_consts:
        if isinstance(each, CodeType):
            found |= dict.fromkeys(_names(each))
    return list(found)


def _is_kept(value: object) -> bool:
    kind = type(value)
    return kind in _PLAIN or (kind in _CONTAINERS and len(cast("list[Any]", value)) <= LARGEST)


def _copied(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - anybody's `__deepcopy__`; then its entries are not looked into
        return copy.copy(value)


def _first_read(code: CodeType, name: str) -> tuple[CodeType, int] | None:
    for instruction in dis.get_instructions(code):
        if instruction.argval == name and instruction.opname.startswith("LOAD_"):
            line = instruction.positions.lineno if instruction.positions else None
            if line:
                return code, line
    for each in code.co_consts:
        if isinstance(each, CodeType) and (found := _first_read(each, name)) is not None:
            return found
    return None
