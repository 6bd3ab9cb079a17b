"""Where does a request of the box go, over which scheme, and with which headers set?

Pure: it decides, and what it does not let through becomes a `Problem`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import attrs

from boxflow_backends.egress_gate.header_values import HeaderValue
from boxflow_backends.egress_gate.names import Destination, is_address, parse_destination, split_port
from boxflow_backends.egress_gate.policy import Policy
from boxflow_backends.egress_gate.problems import Problem, not_allowed, unreadable

_ABSOLUTE = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<target>[^#]*)", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class Route:
    """Where a request goes.

    :param target: the path and query to ask the host for
    :param headers: to be set, by lower-case name
    """

    destination: Destination
    scheme: Literal["http", "https"]
    target: str
    headers: Mapping[str, HeaderValue]

    def host_header(self) -> str:
        """How the host is to be addressed."""
        usual = 443 if self.scheme == "https" else 80
        return self.destination.host if self.destination.port == usual else str(self.destination)


def route_tunnel(policy: Policy, target: str) -> Destination:
    """The destination of a CONNECT, which the policy allows.

    :raises Problem: it names none, or one that is not allowed
    """
    return _allowed(policy, target, None)


def route_absolute(policy: Policy, method: str, target: str) -> Route:
    """The route of a request that names its host in the request line, as a proxy is asked.

    :raises Problem: it names none, or one that is not allowed
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise unreadable("this is a proxy: ask it for http://host/path, or to CONNECT to host:443")
    scheme: Literal["http", "https"] = "https" if match["scheme"].lower() == "https" else "http"
    destination = _allowed(policy, match["authority"], 443 if scheme == "https" else 80)
    path = match["target"] if match["target"].startswith("/") else "/" + match["target"]
    return _route(policy, destination, scheme, method, path)


def route_inner(policy: Policy, tunnel: Destination, method: str, target: str, host: str | None) -> Route:
    """The route of a request inside a tunnel that the gate opened up, to its host and no other.

    :param host: the request's Host header
    :raises Problem: it is for another host
    """
    scheme: Literal["http", "https"] = "http" if policy.is_plain(tunnel) else "https"
    named = [] if host is None else [host]
    if match := _ABSOLUTE.fullmatch(target):
        named.append(match["authority"])
        target = match["target"] if match["target"].startswith("/") else "/" + match["target"]
    elif not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        raise unreadable("a request inside a tunnel begins with a path")
    if strangers := [one for one in named if parse_destination(one, tunnel.port) != tunnel]:
        raise Problem(
            421,
            "Misdirected Request",
            f"this tunnel leads to {tunnel}, and the request is for {strangers[0]!r}; open a tunnel of its own for it",
        )
    return _route(policy, tunnel, scheme, method, target)


def _allowed(policy: Policy, authority: str, default_port: int | None) -> Destination:
    destination = parse_destination(authority, default_port)
    if destination is None:
        split = split_port(authority)
        if split is not None and is_address(split[0]):
            raise Problem(
                403, "Not in the allow-list", f"{authority!r} is an address; this box may only connect to hosts by name"
            )
        raise unreadable(f"{authority!r} names no host and port")
    if not policy.allows(destination):
        raise not_allowed(destination)
    return destination


def _route(
    policy: Policy, destination: Destination, scheme: Literal["http", "https"], method: str, target: str
) -> Route:
    headers = policy.headers_for(destination)
    if headers and scheme == "http" and not policy.is_plain(destination):
        # A secret does not travel in the clear because the box asked for it that way.
        scheme = "https"
    if scheme == "https" and destination.port == 80 and headers:
        destination = Destination(host=destination.host, port=443)
        headers = policy.headers_for(destination)
        if not policy.allows(destination):
            raise not_allowed(destination)
    if headers and method in {"TRACE", "TRACK"}:
        raise Problem(
            405, "Method Not Allowed", f"{method} would show this box the headers that are set for {destination}"
        )
    return Route(destination=destination, scheme=scheme, target=target, headers=headers)
