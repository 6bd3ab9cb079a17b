"""Which type does a function promise to return, and which payload does it take?

Read once, when a step or a workflow is first seen, and remembered for as long as the function lives.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Never, NoReturn, Self, get_args, get_origin, get_type_hints

import msgspec

ANY: Final[object] = Any
"""No type is known: only what JSON gives back as it was can be kept."""

_class: Final = type  # `type` names a parameter nearly everywhere in the codec, as it does in the public API
_AWAITABLES: frozenset[object] = frozenset({Awaitable, Coroutine, asyncio.Future, asyncio.Task})
_SAYS_NOTHING: list[Any] = [object, NoReturn, Never, Self]
_MODULE_PATHS = re.compile(r"(?:[\w<>]+\.)+(?=\w)")


class Unresolved(msgspec.Struct, frozen=True):
    """An annotation that could not be evaluated. It counts as `ANY`; an `EncodeError` tells why."""

    part: str
    annotation: str
    reason: str

    def __str__(self) -> str:
        return f"its {self.part} annotation {self.annotation!r} could not be resolved: {self.reason}"


def type_text(type: object) -> str:
    """*type* as people write it: `set[str]`, `Verdict | None`, without modules."""
    if type is types.NoneType or type is None:
        return "None"
    if isinstance(type, _class) and not get_args(type):
        return type.__name__
    return _MODULE_PATHS.sub("", repr(type)).replace("NoneType", "None")


def return_type(fn: Callable[..., object], names: Mapping[str, object] | None = None) -> object:
    """What a call of *fn* results in, once awaited: its return annotation.

    A class results in its instances. Where nothing is said (no annotation, `object`, a builtin) it is `ANY`; where it
    cannot be evaluated, an `Unresolved`. Annotations kept as text are evaluated in the function's module, its closure
    and *names*.
    """
    if names is None and isinstance(fn, types.FunctionType) and (known := _return_types.get(fn)) is not None:
        return known
    if isinstance(fn, type) or get_origin(fn) is not None:
        return fn
    function = _function(fn)
    if function is None:
        return ANY
    if names is None and (known := _return_types.get(function)) is not None:
        return known
    found = _meaning(_read_return_type(function, names or {}))
    if names is None:
        _return_types[function] = found
    return found


def payload_type(fn: Callable[..., object], names: Mapping[str, object] | None = None) -> object:
    """The annotation of the payload, the second positional parameter in `(ctx, payload)`; else as `return_type`."""
    function = _function(fn)
    if function is None:
        return ANY
    # A method or a partial has other positions than its function, so only the function itself is remembered.
    is_plain = fn is function and names is None
    if is_plain and (known := _payload_types.get(function)) is not None:
        return known
    found = _meaning(_read_payload_type(fn, function, names or {}))
    if is_plain:
        _payload_types[function] = found
    return found


_return_types: weakref.WeakKeyDictionary[types.FunctionType, object] = weakref.WeakKeyDictionary()
_payload_types: weakref.WeakKeyDictionary[types.FunctionType, object] = weakref.WeakKeyDictionary()


def _function(fn: object) -> types.FunctionType | None:
    """The Python function at the bottom of partials, methods and callable objects; None for builtins."""
    while not isinstance(fn, types.FunctionType):
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            fn = fn.__func__
        else:
            call = getattr(type(fn), "__call__", None)  # noqa: B004  # the function itself is wanted
            if not isinstance(call, types.FunctionType | types.MethodType):
                return None
            fn = call
    return fn


def _read_return_type(function: types.FunctionType, names: Mapping[str, object]) -> object:
    annotations = inspect.get_annotations(function)
    if "return" not in annotations:
        return ANY
    found = _resolve(function, "return", annotations["return"], names)
    if get_origin(found) in _AWAITABLES and not inspect.iscoroutinefunction(function):
        return get_args(found)[-1]
    return ANY if found in _AWAITABLES else found


def _read_payload_type(fn: Callable[..., object], function: types.FunctionType, names: Mapping[str, object]) -> object:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # a callable that tells no signature
        return ANY
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 2 or positional[1].annotation is inspect.Parameter.empty:
        return ANY
    return _resolve(function, "payload", positional[1].annotation, names)


def _resolve(function: types.FunctionType, part: str, annotation: object, names: Mapping[str, object]) -> object:
    original = inspect.unwrap(function)
    scope = dict(names)
    for owner in (original, function):
        closure = zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True)
        for name, cell in closure:
            try:
                scope.setdefault(name, cell.cell_contents)
            except ValueError:  # not assigned yet
                continue
        for parameter in getattr(owner, "__type_params__", ()):  # Python 3.12: def f[T]() -> T
            scope.setdefault(parameter.__name__, parameter)
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return get_type_hints(holder, original.__globals__, scope, include_extras=True)["it"]
    except Exception as exc:  # noqa: BLE001  # an annotation is the user's expression, it can raise anything
        return Unresolved(part, annotation if isinstance(annotation, str) else repr(annotation), str(exc))


def _meaning(annotation: object) -> object:
    if annotation is None:  # in `Awaitable[None]` it is not yet the type
        return types.NoneType
    return ANY if any(annotation is one for one in _SAYS_NOTHING) else annotation
