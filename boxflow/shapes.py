"""How is a value of one type written as JSON and read back?

msgspec does it wherever it can build a decoder for the type. What it cannot decide are unions of types that look alike
in JSON (`Approved | Rejected`, `str | datetime`). A union it refuses is written in the tagged form

    {"$type": "Approved", "$value": {"by": "ann"}}

wherever it stands (in lists, dicts, tuples, fields of dataclasses, attrs classes, TypedDicts and NamedTuples); plain
JSON scalars among its members stay as they are. Data without a tag, as people outside send it, is tried on each member,
unknown fields refused, and must fit exactly one.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# Values of any type pass through here; what is known of them is asked at run time.

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    NamedTuple,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import attrs
import msgspec

from boxflow.annotations import type_text
from boxflow.fidelity import Difference, difference, field_names, is_model, tuple_names
from boxflow.native_shapes import (
    PLAIN,
    RAW_DICT,
    RAW_LIST,
    MisfitError,
    Native,
    Shape,
    UnkeptError,
    decode_part,
    encode_json,
    encode_part,
)

# --- what is put together from parts -------------------------------------------------------------------------------

_ARRAYS: Mapping[object, Callable[[list[Any]], Any]] = {
    list: list,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Collection: list,
    abc.Iterable: list,
    set: set,
    abc.Set: set,
    abc.MutableSet: set,
    frozenset: frozenset,
}
_MAPS = frozenset({dict, abc.Mapping, abc.MutableMapping})
_SCALARS = frozenset({str, int, float, bool, types.NoneType})


@functools.lru_cache(maxsize=1024)
def shape_of(type: Any) -> Shape:
    """The shape of *type*.

    :raises TypeError: a type, or a part of it, that JSON data cannot be decoded to
    :raises NameError: an annotation in it that cannot be resolved
    """
    return _shape(type, {})


def _shape(type: Any, building: dict[Any, _Later]) -> Shape:
    try:
        return Native(type)
    except TypeError as exc:
        if type in building:  # a class that holds itself
            return building[type]
        building[type] = _Later()
        shape = _composed(type, functools.partial(_shape, building=building))
        if shape is None:
            raise TypeError(str(exc).partition(" - type ")[0]) from exc
        building[type].shape = shape
        return shape


class _Later:
    """A shape that is still being built."""

    shape: Shape

    def encode(self, value: Any) -> bytes:
        return self.shape.encode(value)

    def decode(self, data: Any) -> Any:
        return self.shape.decode(data)


def _composed(type: Any, shape: Callable[[Any], Shape]) -> Shape | None:
    origin, args = get_origin(type) or type, get_args(type)
    if origin in (Annotated, Required, NotRequired):
        return shape(args[0])
    if hasattr(type, "__supertype__"):  # NewType
        return shape(type.__supertype__)
    if hasattr(type, "__value__"):  # type X = ...
        return shape(type.__value__)
    if origin in (Union, types.UnionType):
        return _Union([(member, shape(member)) for member in args])
    if origin in _ARRAYS and args:
        return _Array(_ARRAYS[origin], shape(args[0]))
    if origin is tuple and args:
        each = shape(args[0]) if args[-1] is Ellipsis else None
        return _Array(tuple, each) if each else _Row(tuple, [(f"[{i}]", shape(one)) for i, one in enumerate(args)])
    if origin in _MAPS and args:
        return _Map(args[0], shape(args[1]))
    if inspect.isclass(origin) and issubclass(origin, tuple) and (names := tuple_names(origin)) is not None:
        hints = get_type_hints(origin, include_extras=True)
        parts = [(f".{name}", shape(hints.get(name, Any))) for name in names]
        # `_make` is NamedTuple's own way from an iterable.
        return _Row(getattr(origin, "_make"), parts)  # noqa: B009  # no type checker knows it
    if (fields := _fields(origin, args)) is not None:
        return _Object(origin, [(field, shape(field.type)) for field in fields])
    return None


class _Array:
    """Any number of items of one shape."""

    def __init__(self, make: Callable[[list[Any]], Any], item: Shape) -> None:
        self._make, self._item = make, item

    def encode(self, value: Any) -> bytes:
        return encode_json([encode_part(f"[{index}]", self._item, item) for index, item in enumerate(value)])

    def decode(self, data: Any) -> Any:
        raws = RAW_LIST.decode(data)
        return self._make([decode_part(f"[{index}]", self._item, raw) for index, raw in enumerate(raws)])


class _Row:
    """A fixed number of items, each with its own shape: a tuple or a NamedTuple."""

    def __init__(self, make: Callable[[list[Any]], Any], parts: Sequence[tuple[str, Shape]]) -> None:
        self._make, self._parts = make, parts

    def encode(self, value: Any) -> bytes:
        pairs = zip(self._parts, value, strict=True)
        return encode_json([encode_part(step, shape, item) for (step, shape), item in pairs])

    def decode(self, data: Any) -> Any:
        raws = RAW_LIST.decode(data)
        if len(raws) != len(self._parts):
            raise MisfitError(f"Expected an array of length {len(self._parts)}, got {len(raws)}")
        pairs = zip(self._parts, raws, strict=True)
        return self._make([decode_part(step, shape, raw) for (step, shape), raw in pairs])


class _Map:
    """A dict; msgspec handles its keys."""

    def __init__(self, key: Any, item: Shape) -> None:
        self._raws, self._item = Native(dict[key, msgspec.Raw]), item

    def encode(self, value: Any) -> bytes:
        return encode_json({key: encode_part(f"[{key!r}]", self._item, item) for key, item in value.items()})

    def decode(self, data: Any) -> Any:
        raws = self._raws.decode(data)
        return {key: decode_part(f"[{key!r}]", self._item, raw) for key, raw in raws.items()}


class _Field(NamedTuple):
    """A field of a class: *argument* is its name in the constructor, None when it is set afterwards."""

    name: str
    type: Any
    argument: str | None
    required: bool


class _Object:
    """A dataclass, an attrs class or a TypedDict."""

    def __init__(self, make: Any, parts: Sequence[tuple[_Field, Shape]]) -> None:
        self._make, self._parts = make, {field.name: (field, shape) for field, shape in parts}

    def encode(self, value: Any) -> bytes:
        if isinstance(value, dict):  # in its own order, which comes back
            items = {name: item for name, item in value.items() if name in self._parts}
        else:
            items = {name: getattr(value, name) for name in self._parts if hasattr(value, name)}
        return encode_json({name: encode_part(f".{name}", self._parts[name][1], item) for name, item in items.items()})

    def decode(self, data: Any) -> Any:
        raws = RAW_DICT.decode(data)
        arguments: dict[str, Any] = {}
        afterwards: dict[str, Any] = {}
        for name in [name for name in raws if name in self._parts]:
            field, shape = self._parts[name]
            item = decode_part(f".{name}", shape, raws[name])
            (afterwards if field.argument is None else arguments)[field.argument or name] = item
        for name, (field, _) in self._parts.items():
            if field.required and name not in raws:
                raise MisfitError(f"Object missing required field `{name}`")
        try:
            made = self._make(**arguments)
        except Exception as exc:  # as in Native
            raise MisfitError(f"{type(exc).__name__}: {exc}") from exc
        for name, item in afterwards.items():
            object.__setattr__(made, name, item)
        return made


class _Union:
    """Members that look alike in JSON; see the tagged form at the top."""

    def __init__(self, members: Sequence[tuple[Any, Shape]]) -> None:
        self._scalars = {member: shape for member, shape in members if member in _SCALARS}
        texts = [type_text(member) for member, _ in members]
        tags = texts if len(set(texts)) == len(texts) else [repr(member) for member, _ in members]
        tagged = zip(tags, members, strict=True)
        self._members = {tag: (member, shape) for tag, (member, shape) in tagged if member not in _SCALARS}

    def encode(self, value: Any) -> bytes:
        kind: Any = float if type(value) is int and int not in self._scalars else type(value)
        if kind in self._scalars:
            return self._scalars[kind].encode(value)
        for tag, (_, shape) in self._members.items():
            try:
                data = shape.encode(value)
                exact = difference(value, shape.decode(data)) is None
            except Exception:  # noqa: BLE001, S112  # not this member; what its code raises says nothing
                continue
            if exact:
                return encode_json({"$type": tag, "$value": msgspec.Raw(data)})
        raise UnkeptError(Difference("", value))

    def decode(self, data: Any) -> Any:
        plain = PLAIN.decode(data)
        if isinstance(plain, dict) and plain.keys() == {"$type", "$value"}:
            if plain["$type"] not in self._members:
                raise MisfitError(f"`$type` is {plain['$type']!r}, expected one of {', '.join(self._members)}")
            raws = RAW_DICT.decode(data)
            return self._members[plain["$type"]][1].decode(raws["$value"])
        kind: Any = float if type(plain) is int and int not in self._scalars else type(plain)
        if kind in self._scalars:
            return self._scalars[kind].decode(data)
        return self._decode_untagged(plain, data)

    def _decode_untagged(self, plain: Any, data: Any) -> Any:
        fits: dict[str, Any] = {}
        misfits: dict[str, str] = {}
        for tag, (member, shape) in self._members.items():
            names = _accepted_names(member)
            if isinstance(plain, dict) and names is not None and (unknown := plain.keys() - names):
                misfits[tag] = f"unknown field `{min(unknown)}`"
                continue
            try:
                fits[tag] = shape.decode(data)
            except MisfitError as exc:
                misfits[tag] = str(exc)
        if len(fits) == 1:
            return next(iter(fits.values()))
        if fits:
            advice = '{"$type": "%s", "$value": ...}' % next(iter(fits))  # noqa: UP031  # braces everywhere
            raise MisfitError(f"{' and '.join(fits)} fit it alike; say which with {advice}")
        raise MisfitError("; ".join(f"not {tag}: {reason}" for tag, reason in misfits.items()) or "no member fits")


def _fields(origin: Any, args: tuple[Any, ...]) -> list[_Field] | None:
    if not isinstance(origin, type):
        return None
    cls: Any = origin
    is_dict, is_attrs = is_typeddict(cls), attrs.has(cls)
    if not (is_dict or is_attrs or dataclasses.is_dataclass(cls)):
        return None
    given = dict(zip(getattr(cls, "__parameters__", ()), args, strict=False))
    hints = {name: _filled(hint, given) for name, hint in get_type_hints(cls, include_extras=True).items()}
    if is_dict:
        # Where annotations are text, `__required_keys__` does not know of NotRequired; the evaluated hint does.
        required: frozenset[str] = getattr(origin, "__required_keys__", frozenset())
        return [
            _Field(name, hint, name, name in required and get_origin(hint) is not NotRequired)
            for name, hint in hints.items()
        ]
    if is_attrs:
        return [
            _Field(one.name, hints.get(one.name, Any), one.alias if one.init else None, one.default is attrs.NOTHING)
            for one in attrs.fields(cls)
        ]
    return [
        _Field(
            one.name,
            hints.get(one.name, Any),
            one.name if one.init else None,
            one.init and one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING,
        )
        for one in dataclasses.fields(cls)
    ]


def _filled(hint: Any, given: Mapping[Any, Any]) -> Any:
    """*hint* with the type variables of a generic class replaced by what it was given."""
    if isinstance(hint, TypeVar):
        return given.get(hint, Any)
    open_ones = getattr(hint, "__parameters__", ())
    return hint[tuple(given.get(one, Any) for one in open_ones)] if open_ones and not inspect.isclass(hint) else hint


def _accepted_names(member: Any) -> set[str] | None:
    """The field names that data for *member* may have; None when it takes any."""
    kind: Any = get_origin(member) or member
    if not isinstance(member, type) and not inspect.isclass(kind):
        return None
    if is_typeddict(kind):
        return set(get_type_hints(kind))
    if issubclass(kind, msgspec.Struct):
        return {*kind.__struct_encode_fields__}
    names = field_names(kind)
    if names is None or not is_model(kind):
        return None if names is None else set(names)
    model: Any = member
    if model.model_config.get("extra") == "allow":
        return None
    aliases = {one.validation_alias or one.alias for one in model.model_fields.values()}
    return {*names, *(alias for alias in aliases if isinstance(alias, str))}
