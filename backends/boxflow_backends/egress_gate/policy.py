"""What does an `Egress` allow, and what is done to what it allows? Pure: it decides, and connects to nothing."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from importlib.util import find_spec

import attrs

from boxflow.errors import ConfigurationError
from boxflow.ports import Egress
from boxflow_backends.egress_gate.header_values import HeaderValue
from boxflow_backends.egress_gate.names import Destination, is_address, normalise_name, split_port

_DEFAULT_PORTS = frozenset({443, 80})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The gate itself speaks HTTP with the host: these say where a message ends, whom it is for, or are for one hop only.
_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@attrs.frozen(kw_only=True)
class Pattern:
    """A name, or all subdomains of one, on one port or on the two usual ones."""

    name: str
    subdomains: bool
    port: int | None

    def matches(self, destination: Destination) -> bool:
        """Whether *destination* is meant."""
        return self.matches_name(destination.host) and self.has_port(destination.port)

    def matches_name(self, host: str) -> bool:
        """Whether *host* is meant, on whatever port."""
        return host.endswith("." + self.name) if self.subdomains else host == self.name

    def has_port(self, port: int) -> bool:
        """Whether *port* is meant."""
        return port in _DEFAULT_PORTS if self.port is None else port == self.port

    def covers(self, other: Pattern) -> bool:
        """Whether some destination that *other* means is meant by this one too, and no name beyond this one's."""
        names = (
            other.name == self.name or other.name.endswith("." + self.name)
            if self.subdomains and other.subdomains
            else not other.subdomains and self.matches_name(other.name)
        )
        return names and (other.port is None or self.has_port(other.port))


@attrs.frozen(kw_only=True)
class Endpoint:
    """An address to connect to without asking DNS; the port that was asked for when None."""

    address: str
    port: int | None


@attrs.frozen(kw_only=True)
class Policy:
    """An `Egress` that was read and found sound."""

    allowed: tuple[Pattern, ...]
    headers: tuple[tuple[Pattern, Mapping[str, HeaderValue]], ...]
    overrides: Mapping[tuple[str, int | None], Endpoint]

    def allows(self, destination: Destination) -> bool:
        """Whether the box may connect there."""
        return any(pattern.matches(destination) for pattern in self.allowed)

    def is_plain(self, destination: Destination) -> bool:
        """Whether the policy itself names port 80 for this host: only then may a secret travel without TLS."""
        return destination.port == 80 and any(
            pattern.port == 80 and pattern.matches(destination) for pattern in self.allowed
        )

    def headers_for(self, destination: Destination) -> dict[str, HeaderValue]:
        """The headers to set, by lower-case name; what is said for the host itself wins over what a pattern says."""
        found: dict[str, HeaderValue] = {}
        for pattern, values in self.headers:
            if pattern.matches_name(destination.host) and pattern.port in (None, destination.port):
                found |= values
        return found

    def override(self, destination: Destination) -> Endpoint | None:
        """Where to connect instead of what DNS says, if that was given."""
        return self.overrides.get((destination.host, destination.port)) or self.overrides.get((destination.host, None))

    def variables(self) -> list[str]:
        """The names of all secrets that the headers need, sorted."""
        return sorted({name for _, values in self.headers for value in values.values() for name in value.variables()})


def check_policy(egress: Egress) -> None:
    """Refuse an `Egress` that no gate can serve, before anything is made for it.

    :raises ConfigurationError: it cannot work; the message says which entry of it, and what to write
    """
    read_policy(egress)


def read_policy(egress: Egress) -> Policy:
    """The policy that *egress* describes.

    :raises ConfigurationError: see `check_policy`
    """
    if not egress.allow:
        raise ConfigurationError("Egress.allow is empty; name a host, or use network='none'")
    allowed = tuple(_read_pattern(entry, "Egress.allow") for entry in egress.allow)
    headers = [
        (_covered(_read_pattern(host, "Egress.headers"), host, allowed, "headers"), _read_headers(host, values))
        for host, values in egress.headers.items()
    ]
    if headers and find_spec("cryptography") is None:
        raise ConfigurationError(
            "Egress.headers needs the package 'cryptography' where the engine runs: pip install 'boxflow[egress]'"
        )
    # The more is said about a name and port, the later it comes, and the later wins.
    headers.sort(key=lambda one: (not one[0].subdomains, len(one[0].name), one[0].port is not None))
    overrides = dict(_read_override(host, target, allowed) for host, target in egress.resolve.items())
    return Policy(allowed=allowed, headers=tuple(headers), overrides=overrides)


def _read_pattern(text: str, where: str) -> Pattern:
    def refuse(why: str) -> ConfigurationError:
        return ConfigurationError(f"{where} has {text!r}, {why}")

    if "/" in text or "@" in text:
        raise refuse("which is a URL; write only the host name, as in 'api.example.org' or 'api.example.org:8443'")
    if text == "*":
        raise refuse("which is every host; use network='open' for that")
    split = split_port(text)
    if is_address(text) or (split is not None and is_address(split[0])):
        raise refuse("which is an address; name the host, and put its address into Egress.resolve if DNS lacks it")
    if split is None:
        raise refuse("whose port is no number from 1 to 65535")
    subdomains = split[0].startswith("*.")
    name = normalise_name(split[0].removeprefix("*."))
    if name is None:
        raise refuse("which is no host name; write 'api.example.org', or '*.example.org' for its subdomains")
    return Pattern(name=name, subdomains=subdomains, port=split[1])


def _covered(pattern: Pattern, text: str, allowed: tuple[Pattern, ...], where: str) -> Pattern:
    if not any(one.covers(pattern) for one in allowed):
        raise ConfigurationError(f"Egress.{where} is about {text!r}, which Egress.allow does not have; add it there")
    return pattern


def _read_headers(host: str, values: Mapping[str, str]) -> dict[str, HeaderValue]:
    found: dict[str, HeaderValue] = {}
    for name, text in values.items():
        if not _TOKEN.fullmatch(name):
            raise ConfigurationError(f"Egress.headers for {host!r} has {name!r}, which is no header name")
        if name.lower() in _RESERVED:
            raise ConfigurationError(
                f"Egress.headers for {host!r} has {name!r}, which the gate sets itself; leave it out"
            )
        if name.lower() in found:
            raise ConfigurationError(f"Egress.headers for {host!r} has {name!r} twice; header names know no case")
        value = HeaderValue(text)
        # The message leaves the value out: somebody may have written a secret there after all.
        if (problem := value.problem()) is not None:
            raise ConfigurationError(f"Egress.headers for {host!r}: header {name!r} {problem}")
        found[name.lower()] = value
    return found


def _read_override(host: str, target: str, allowed: tuple[Pattern, ...]) -> tuple[tuple[str, int | None], Endpoint]:
    pattern = _covered(_read_pattern(host, "Egress.resolve"), host, allowed, "resolve")
    if pattern.subdomains:
        raise ConfigurationError(f"Egress.resolve has {host!r}; it takes single hosts, no patterns")
    endpoint = _read_endpoint(target)
    if endpoint is None:
        raise ConfigurationError(
            f"Egress.resolve[{host!r}] is {target!r}; write an address, as in '10.0.0.7' or '[fd00::7]:8443'"
        )
    return (pattern.name, pattern.port), endpoint


def _read_endpoint(text: str) -> Endpoint | None:
    split = (text, None) if _is_plain_address(text) else split_port(text)
    if split is None:
        return None
    address = split[0].removeprefix("[").removesuffix("]") if split[0].startswith("[") else split[0]
    return Endpoint(address=address, port=split[1]) if _is_plain_address(address) else None


def _is_plain_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
