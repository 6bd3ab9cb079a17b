"""How is a request read? Within bounds of size and time, as what its endpoint takes; else it is refused, and why."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Annotated, Any, Final, NoReturn, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request

from boxflow.asgi.problems import Fault, RefusedError
from boxflow.errors import DecodeError, PayloadTooLargeError
from boxflow.model import Duration, seconds

T = TypeVar("T")

MAX_BODY_BYTES = 1024 * 1024

MAX_HEADERS = 128
MAX_HEADER_BYTES = 64 * 1024
"""More than any caller needs, and what h11 takes in all; some servers have no bound of their own."""

DurationIn: TypeAlias = (
    Annotated[float, msgspec.Meta(ge=0)]
    | Annotated[str, msgspec.Meta(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+$", examples=["30s", "1h30m"])]
)
"""Seconds, or text as in "30s", "5m", "2h", "1d"."""

MAX_DURATION_S: Final = 100 * 366 * 86400.0
"""A century: what is due later cannot be told from a mistake, and beyond the year 9999 there are no dates."""

# RFC 8259 §2; for Python there are more.
_BLANKS: Final = b" \t\n\r"

_PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\]]*)\]")


def check_headers(request: Request) -> None:
    """:raises RefusedError: its headers are too many, or too large."""
    raw = request.headers.raw
    size = sum(len(name) + len(value) + 4 for name, value in raw)
    if len(raw) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise RefusedError(
            431,
            "Headers too large",
            f"it has {len(raw)} headers of {size} bytes; at most {MAX_HEADERS} and {MAX_HEADER_BYTES} are taken",
        )


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    :raises PayloadTooLargeError: as soon as it is known to be too large
    :raises RefusedError: it did not come within *timeout_s*
    :raises ClientDisconnect: the sender left in the middle of it
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise PayloadTooLargeError(f"the body has {declared} bytes, at most {max_bytes} are taken")
    body = bytearray()
    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline:
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise PayloadTooLargeError(
                        f"the body has more than {max_bytes} bytes, which is the most that is taken"
                    )
    except TimeoutError:
        if not deadline.expired():
            raise
        detail = f"the body did not come within {timeout_s:g} s"
        # What comes of it later must not be taken for the next request. HTTP/2 has a stream for each (RFC 9113 §8.2.2).
        headers = {"Connection": "close"} if request.scope.get("http_version", "1.1").startswith("1") else {}
        raise RefusedError(408, "Body too slow", detail, headers=headers) from None
    return bytes(body)


def parse_json(body: bytes, what: str) -> Any:
    """*body* as JSON of RFC 8259: in UTF-8, and without the NaN and Infinity that Python reads too.

    :raises RefusedError: it is something else
    """
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise _not_json(what, error) from error


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _not_json(what: str, error: Exception) -> RefusedError:
    return RefusedError(400, "Body is not JSON", f"{what} must be JSON, or empty: {error}")


def parse_body(body: bytes, kind: type[T], *, may_be_empty: bool) -> T:
    """*body* as the object that *kind* describes; where it may be empty, `null` is, too.

    :raises RefusedError: it is no JSON, or something else
    """
    if may_be_empty and (not body or body.strip(_BLANKS) == b"null"):
        body = b"{}"
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=kind)
    except msgspec.ValidationError as error:
        raise misfit("the body does not fit", str(error)) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _not_json("the body", error) from error


def parse_query(request: Request, kind: type[T]) -> T:
    """The query parameters as the object that *kind* describes.

    :raises RefusedError: one is unknown, or given twice where it may be once, or does not fit
    """
    data: dict[str, object] = {}
    repeatable = {field.encode_name for field in msgspec.structs.fields(kind) if is_list(field.type)}  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # endpoints declare structs
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if name not in repeatable and len(values) > 1:
            raise _bad_parameter(name, f"it is given {len(values)} times, and may be given once")
        data[name] = values if name in repeatable else values[0]
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        found = _PLACE.match(str(error))
        reason, path = (str(error), "") if found is None else (found["reason"], found["path"] or "")
        unknown = re.search(r"unknown field `(.*)`$", reason, re.DOTALL)
        if unknown is not None:
            known = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # as above
            raise _bad_parameter(unknown[1], f"there is no such parameter; known: {known or 'none'}") from error
        step = _STEP.match(path)
        raise _bad_parameter("" if step is None else step[1], reason) from error


def is_list(type: Any) -> bool:
    """Whether a parameter of that type may be given several times."""
    schema = msgspec.json.schema(type)
    return schema.get("type") == "array"


def _bad_parameter(name: str, reason: str) -> RefusedError:
    fault = Fault(detail=reason, parameter=name)
    return RefusedError(422, "Bad request", f"query parameter {name!r}: {reason}", errors=(fault,))


def bad_parameter(name: str, reason: str) -> RefusedError:
    """The answer to a parameter, or a header in its place, that no schema could refuse."""
    return _bad_parameter(name, reason)


def misfit(what: str, message: str, *, below: str = "") -> RefusedError:
    """The answer to data that does not fit; *message* is msgspec's.

    :param below: a JSON pointer to where the data stands in the body
    """
    found = _PLACE.match(message)
    reason, path = (message, "") if found is None else (found["reason"], found["path"] or "")
    return bad_part(what, reason, path, below=below)


def bad_part(what: str, reason: str, path: str = "", *, below: str = "") -> RefusedError:
    """The answer to a part of the body that does not fit.

    :param path: from `below`, as `.name[0]`
    """
    pointer = f"#{below}{_pointer(path)}"
    where = f" (at {pointer})" if len(pointer) > 1 else ""
    return RefusedError(
        422, "Data does not fit", f"{what}: {reason}{where}", errors=(Fault(detail=reason, pointer=pointer),)
    )


def unfit_payload(error: DecodeError, workflow: str) -> RefusedError:
    """The answer to a payload that is not of its workflow's type: what is wrong, and where."""
    cause = error.__cause__
    reason, path = getattr(cause, "reason", str(error)), getattr(cause, "path", "")
    return bad_part(f"the payload does not fit workflow {workflow}", str(reason), str(path), below="/payload")


def _pointer(path: str) -> str:
    """`.people[0].name` as a JSON pointer: `/people/0/name` (RFC 6901)."""
    steps = [name or index.strip("'\"") for name, index in _STEP.findall(path)]
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)


def parse_duration(duration: Duration, pointer: str) -> float:
    """*duration* in seconds.

    :raises RefusedError: it is none, or longer than a century
    """
    try:
        found = seconds(duration)
    except ValueError as error:
        raise bad_part("the body does not fit", str(error), below=pointer) from error
    if found > MAX_DURATION_S:
        raise bad_part("the body does not fit", f"duration {duration!r} is longer than a century", below=pointer)
    return found
