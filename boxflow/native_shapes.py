"""What does msgspec write and read alone, and what do we teach it?

msgspec knows dataclasses, attrs classes, dates, sets and much more. Here it also learns pydantic models, paths and IP
addresses. What it cannot decide, `boxflow.shapes` puts together from such parts.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# Values of any type pass through here; what is known of them is asked at run time.

from __future__ import annotations

import functools
import inspect
from typing import Any, Protocol

import msgspec

from boxflow.annotations import type_text
from boxflow.fidelity import Difference, is_model


class UnkeptError(Exception):
    """A value, or something in it, has no exact JSON form under its type."""

    def __init__(self, found: Difference) -> None:
        super().__init__(found)
        self.found = found


class MisfitError(Exception):
    """JSON data does not fit the type; *path* leads to the place."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"{self.reason} at {self.path}" if self.path else self.reason


class Shape(Protocol):
    """Writes and reads the values of one type."""

    def encode(self, value: Any, /) -> bytes:
        """:raises Exception: it has no JSON form; not everything that is written is exact, compare what comes back."""
        ...

    def decode(self, data: bytes | msgspec.Raw | memoryview, /) -> Any:
        """:raises MisfitError: *data* is not JSON, or does not fit the type."""
        ...


# --- what msgspec does not know itself -----------------------------------------------------------------------------


def _is_written_as_text(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, _written_as_text())


@functools.cache
def _written_as_text() -> tuple[type, ...]:
    # Imported where they are used, by the few programs that keep such values: they took 3 ms of `import boxflow`.
    import ipaddress
    import pathlib

    return (
        pathlib.PurePath,
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        ipaddress.IPv4Interface,
        ipaddress.IPv6Interface,
    )


def encode_foreign(value: Any) -> Any:
    """`enc_hook`: pydantic models by field name, paths and IP addresses as text."""
    if is_model(type(value)):
        # By name and `round_trip`, so that neither aliases nor computed fields stand in the way back.
        return msgspec.Raw(value.model_dump_json(by_alias=False, round_trip=True, warnings=False).encode())
    if _is_written_as_text(type(value)):
        return str(value)
    raise UnkeptError(Difference("", value))


def decode_foreign(type: type, data: Any) -> Any:
    """`dec_hook`: the way back of `encode_foreign`. Models also take the aliases that the outside world sends."""
    if type is object:
        return data
    if is_model(type):
        return _read_model(type, msgspec.json.encode(data))
    if isinstance(data, str) and _is_written_as_text(type):
        return type(data)
    raise ValueError(f"{type_text(type)} has no JSON form")


def _read_model(model: Any, data: bytes) -> Any:
    if _takes_names(model):
        return model.model_validate_json(data, by_alias=True, by_name=True)
    return model.model_validate_json(data)


@functools.lru_cache(maxsize=1024)
def _takes_names(model: Any) -> bool:
    """Whether this pydantic (2.11 and newer) can be told to; before, models with aliases are refused when encoded."""
    return "by_name" in inspect.signature(model.model_validate_json).parameters


encode_json = msgspec.json.Encoder(enc_hook=encode_foreign).encode


class Native:
    """A type that msgspec can decide alone."""

    def __init__(self, type: Any) -> None:
        self._decode = msgspec.json.Decoder(type, dec_hook=decode_foreign).decode

    encode = staticmethod(encode_json)

    def decode(self, data: Any) -> Any:
        try:
            return self._decode(data)
        except (msgspec.DecodeError, RecursionError) as exc:
            reason, _, path = str(exc).partition(" - at `$")
            raise MisfitError(reason, path.rstrip("`")) from exc
        except Exception as exc:  # what users' validators and __post_init__ raise has no bound
            raise MisfitError(f"{type(exc).__name__}: {exc}") from exc


RAW_LIST = Native(list[msgspec.Raw])
RAW_DICT = Native(dict[str, msgspec.Raw])
PLAIN = Native(Any)


def encode_part(step: str, shape: Shape, value: Any) -> msgspec.Raw:
    """Encode what stands at *step* of a larger value; an `UnkeptError` learns the place."""
    try:
        return msgspec.Raw(shape.encode(value))
    except UnkeptError as exc:
        raise UnkeptError(exc.found.under(step)) from None


def decode_part(step: str, shape: Shape, data: Any) -> Any:
    """Decode what stands at *step* of larger data; a `MisfitError` learns the place."""
    try:
        return shape.decode(data)
    except MisfitError as exc:
        raise MisfitError(exc.reason, step + exc.path) from exc.__cause__
