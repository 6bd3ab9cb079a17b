"""How does a value cross the journal?

Encode, then decode to its type: on the first run as on replay. So a value is kept only if it comes back exactly as it
was; everything else is refused when it is encoded, by name and place, and never silently changed. Exact means: the same
types and the same contents, all the way down.

- Without a type (`ANY`): None, bool, int of any size, finite float, str, list and dict with str keys.
- With a type also what the type says: dataclasses, attrs classes, `msgspec.Struct`, TypedDict, NamedTuple, enums, dates
  and times, Decimal, UUID, bytes, paths, IP addresses, sets, tuples, dicts with other keys, Literal, unions, generics,
  and pydantic models where the program uses pydantic (their fields and extras; private attributes are not data).
- Unions of types that look alike in JSON: see `boxflow.shapes`.

An `EncodeError` starts with what was found, so that its caller can say who gave it:

    f"step {name!r} returned {error}"
    step 'fetch' returned a set, which JSON cannot keep; return a list, or pass type=set[str]
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# Values of any type pass through here; what is known of them is asked at run time.

from __future__ import annotations

import functools
import operator
from types import NoneType
from typing import Any, Final

import msgspec

from boxflow.annotations import ANY, Unresolved, payload_type, return_type, type_text
from boxflow.errors import DecodeError, EncodeError
from boxflow.fidelity import MISSING, Difference, Key, children, difference, field_names, first_not_plain, is_plain
from boxflow.native_shapes import MisfitError, Shape, UnkeptError, encode_foreign
from boxflow.shapes import shape_of

__all__ = [
    "ANY",
    "Unresolved",
    "decode_value",
    "encode_loose",
    "encode_value",
    "payload_type",
    "return_type",
    "type_text",
]

_class_of: Final = type  # `type` is a parameter below, as it is in the public API
_SCALARS = frozenset({str, int, bool, NoneType})
_encode = msgspec.json.Encoder().encode
_encode_any = msgspec.json.Encoder(enc_hook=encode_foreign).encode
_decode_any = msgspec.json.Decoder().decode


def encode_value(value: object, type: object = ANY, *, verb: str = "return") -> bytes:
    """*value* as JSON bytes that `decode_value` with the same *type* turns into the same value.

    :param verb: what the message tells the giver of the value to do instead: `return` a list, `pass` a list
    :raises EncodeError: it would not come back as it is; the text starts with what was found
    """
    kind = _class_of(value)
    if kind in _SCALARS and (type is kind or type is ANY or (type is None and value is None)):
        try:
            return _encode(value)
        except ValueError as exc:  # a lone surrogate, or an int beyond sys.get_int_max_str_digits()
            raise _refused(value, Difference("", value), type, verb) from exc
    if kind is float and (type is float or type is ANY) and value - value == 0:  # type: ignore[operator]  # a float
        return _encode(value)
    if type is ANY or isinstance(type, Unresolved):
        return _encode_plain(value, type, verb)
    shape = _shape_to_encode(value, type, verb)
    try:
        data = shape.encode(value)
    except UnkeptError as exc:
        if (culprit := _culprit(value, shape_of(ANY))) is not None:
            raise _refused(value, culprit, type, verb) from exc
        reason = f"{_noun(exc.found.value)} fits no member" + (f" at {exc.found.path}" if exc.found.path else "")
        raise _misfit(value, reason, type, verb) from exc
    except RecursionError as exc:
        raise _endless(value, verb) from exc
    except Exception as exc:  # what getters and serializers of users' classes raise has no bound
        raise _refused(value, _culprit(value, shape_of(ANY)) or Difference("", value), type, verb) from exc
    try:
        back = shape.decode(data)
    except MisfitError as exc:
        raise _misfit(value, str(exc), type, verb) from exc
    try:
        found = difference(value, back)
    except RecursionError as exc:
        raise _endless(value, verb) from exc
    if found is not None:
        raise _refused(value, found, type, verb)
    return data


def decode_value(data: bytes | msgspec.Raw | memoryview, type: object = ANY) -> Any:
    """What *data* says, as a *type*; plain JSON data for `ANY`. `None` as a type expects null.

    :raises DecodeError: it does not fit the type; the text says where and why
    """
    if type is ANY or isinstance(type, Unresolved):
        try:
            return _decode_any(data)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise DecodeError(f"the data is not JSON: {exc}") from exc
    try:
        return _shape(type).decode(data)
    except (TypeError, NameError) as exc:
        raise DecodeError(f"JSON data cannot be decoded to {type_text(type)}: {exc}") from exc
    except MisfitError as exc:
        raise DecodeError(f"the data cannot be read as {type_text(type)}: {exc}") from exc


def encode_loose(value: object) -> bytes:
    """*value* as JSON bytes by its structure: what is sent, where the receiver's type decides what it becomes.

    A set becomes an array, a dataclass an object, a time its ISO text.

    :raises EncodeError: something in it has no JSON form
    """
    try:
        data = _encode_any(value)
    except RecursionError as exc:
        raise _endless(value, "send") from exc
    except Exception as exc:  # what getters and serializers of users' classes raise has no bound
        raise _refused(value, _culprit(value, shape_of(ANY)) or Difference("", value), ANY, "send") from exc
    if b"null" in data and (found := _first_not_finite(value)) is not None:  # msgspec writes NaN as null
        raise _refused(value, found, ANY, "send")
    return data


def _encode_plain(value: object, type: object, verb: str) -> bytes:
    try:
        if is_plain(value):
            return _encode(value)
        found = first_not_plain(value)
    except RecursionError as exc:
        raise _endless(value, verb) from exc
    except ValueError:
        found = _culprit(value, shape_of(ANY))
    raise _refused(value, found or Difference("", value), type, verb)


def _shape(type: Any) -> Shape:
    try:
        hash(type)
    except TypeError:  # Annotated with a list in it, for one
        return shape_of.__wrapped__(type)
    return shape_of(type)


def _shape_to_encode(value: object, type: object, verb: str) -> Shape:
    try:
        return _shape(type)
    except (TypeError, NameError) as exc:
        problem = f"{_noun(value)}, whose type {type_text(type)} JSON data cannot be decoded to: {exc}"
        raise EncodeError(f"{problem}; {verb} plain data, a dataclass or an attrs class") from exc


# --- finding the place ---------------------------------------------------------------------------------------------


def _culprit(value: object, shape: Shape) -> Difference | None:
    """The innermost thing in *value* that cannot be encoded even alone."""
    try:
        shape.encode(value)
    except Exception:  # noqa: BLE001  # that it raises is the answer
        if type(value) is dict:
            for key in value:
                if _culprit(key, shape) is not None or isinstance(key, tuple | NoneType | bool):
                    return Difference("", Key(key))
        for step, item in children(value):
            if (found := _culprit(item, shape)) is not None:
                return found.under(step)
        return Difference("", value)
    return None


def _first_not_finite(value: object) -> Difference | None:
    if isinstance(value, float):
        return Difference("", value) if value - value != 0 else None
    for step, item in children(value):
        if (found := _first_not_finite(item)) is not None:
            return found.under(step)
    return None


# --- saying it -----------------------------------------------------------------------------------------------------


def _refused(value: object, found: Difference, type: object, verb: str) -> EncodeError:
    what = _noun(found.value)
    where = f"{_noun(value)} that holds {what} at {found.path}" if found.path else what
    if isinstance(found.value, Key):
        where = f"{_noun(value)} with {what}" + (f" at {found.path}" if found.path else "")
    if found.back is MISSING:
        why = "which JSON cannot keep"
    elif _noun(found.back) == what:
        why = f"which comes back changed under its type {type_text(type)}"
    else:
        why = f"which comes back as {_noun(found.back)} under its type {type_text(type)}"
    note = f" ({type})" if isinstance(type, Unresolved) else ""
    return EncodeError(f"{where}, {why}; {_remedy(value, found, verb)}{note}")


def _endless(value: object, verb: str) -> EncodeError:
    return EncodeError(
        f"{_noun(value)} that holds itself or is nested too deeply, which JSON cannot keep; {verb} flat plain data"
    )


def _misfit(value: object, reason: str, type: object, verb: str) -> EncodeError:
    # NaN is written as null, which its type then refuses; to name the null would puzzle.
    if (found := _first_not_finite(value)) is not None:
        return _refused(value, found, type, verb)
    wanted = type_text(type)
    return EncodeError(
        f"{_noun(value)}, which does not fit its type {wanted}: {reason}; {verb} what the type says, or change the type"
    )


def _noun(value: object) -> str:
    if value is None:
        return "None"
    if value is MISSING:
        return "nothing"
    if isinstance(value, Key):
        return f"the {_class_of(value.key).__name__} key {value.key!r}"
    name = _class_of(value).__name__
    if isinstance(value, float) and value - value != 0:
        return f"the float {value!r}"
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def _remedy(whole: object, found: Difference, verb: str) -> str:
    value = found.value
    instead = _instead(value) if found.back is MISSING or not is_plain(value) else "what the type says"
    suggested = _suggested_type(whole)
    if instead is None and suggested:
        return f"annotate the return type, or pass type={suggested}" if verb == "return" else f"pass type={suggested}"
    there = " there" if found.path and instead and instead.startswith("a ") else ""
    advice = f"{verb} {instead}{there}" if instead else f"{verb} plain data, a dataclass or an attrs class"
    return f"{advice}, or pass type={suggested}" if suggested else advice


def _instead(value: object) -> str | None:
    """What to give in place of *value*, where its type alone would not help or plain data is simpler."""
    kind: Any = _class_of(value)
    match value:
        case Key():
            return "str keys"
        case set() | frozenset() | tuple() if not hasattr(value, "_fields"):
            return "a list"
        case float():
            return "None or a str in its place"
        case str() if _class_of(value) is str:
            return "text without lone surrogates, or bytes"
        case int() if _class_of(value) is int:
            return "a str: it has too many digits"
        case str() | int() | dict() | list() if field_names(kind) is None:
            name = next(one.__name__ for one in (str, int, dict, list) if issubclass(kind, one))
            return f"a plain {name}"
        case _ if hasattr(value, "__await__"):
            return "what it results in: await it"
        case _ if hasattr(value, "__next__") or hasattr(value, "__anext__"):
            return "a list of what it yields"
        case _:
            return None


def _suggested_type(value: object) -> str | None:
    """The type under which *value* would be kept, as text; None when there is none, or none worth writing."""
    try:
        inferred = _inferred(value)
        encode_exactly(value, inferred)
    except Exception:  # noqa: BLE001  # an odd value gets no suggestion; its refusal is being told already
        return None
    text = type_text(inferred)
    return text if len(text) <= 60 else None


def encode_exactly(value: object, type: object) -> bytes:
    """`encode_value` for the search of a type: errors without an explanation."""
    shape = _shape(type)
    data = shape.encode(value)
    if (found := difference(value, shape.decode(data))) is not None:
        raise UnkeptError(found)
    return data


def _inferred(value: Any) -> Any:
    kind: Any = _class_of(value)
    match value:
        case None:
            return NoneType
        case dict() if value:
            return kind[_union_of(value), _union_of(value.values())]
        case list() | set() | frozenset() if value:
            return kind[_union_of(value)]
        case tuple() if value and not hasattr(value, "_fields"):
            items = tuple(_inferred(item) for item in value)
            return kind[(items[0], ...) if len(items) > 2 and len(set(items)) == 1 else items]
        case _:
            return kind


def _union_of(values: Any) -> Any:
    return functools.reduce(operator.or_, dict.fromkeys(_inferred(item) for item in values))
