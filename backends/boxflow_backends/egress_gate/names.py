"""Which host and port does a piece of text name, and in which one spelling?

Everything that compares names compares what these functions return, so that case, a trailing dot or an international
spelling never decide whether a host is allowed.
"""

from __future__ import annotations

import ipaddress
import re

import attrs

# RFC 1123, and the underscore, which some names of the cloud carry.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What inet_aton(3) reads as a number: "127.1", "0x7f.1" and "2130706433" are addresses, not names.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
_PORT = re.compile(r"[0-9]{1,5}")


@attrs.frozen(kw_only=True)
class Destination:
    """Where somebody wants to connect to; *host* is normalised."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def normalise_name(text: str) -> str | None:
    """*text* as a host name in lower-case ASCII without a trailing dot; None when it is an address or no name."""
    name = text if text.isascii() else _in_ascii(text)
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    # RFC 1035: 253 characters as written without the last dot.
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or _NUMBER.fullmatch(labels[-1]):
        return None
    return name


def _in_ascii(text: str) -> str:
    """The IDNA 2008 spelling (with the mapping of UTS 46, as browsers use it); empty when there is none."""
    import idna  # Only international names need it, and it is large.

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except idna.IDNAError:
        return ""


def split_port(text: str) -> tuple[str, int | None] | None:
    """`"name:443"` as `("name", 443)`, `"name"` as `("name", None)`, None when the port is none; brackets stay."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, None
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        return None
    return host, int(port)


def parse_destination(text: str, default_port: int | None = None) -> Destination | None:
    """The destination that an authority (`"host:port"`) names; None when it is an address, or no host and port."""
    split = split_port(text)
    if split is None:
        return None
    host, port = normalise_name(split[0]), split[1] or default_port
    return None if host is None or port is None else Destination(host=host, port=port)


def is_address(text: str) -> bool:
    """Whether *text* (without a port) is an IP address, also in brackets, with a zone, or in a short spelling."""
    bare = text.strip("[]").partition("%")[0]
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        labels = bare.lower().removesuffix(".").split(".")
        return bool(_NUMBER.fullmatch(labels[-1]))
    return True
