"""Which address is a host's, is it one that a box may reach, and how is exactly that one connected to?

A name is looked up once per connection; what was checked is what is connected to, so that an answer that changes
between two look-ups (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread
import attrs

from boxflow_backends.egress_gate.addresses import is_public
from boxflow_backends.egress_gate.limits import Limits
from boxflow_backends.egress_gate.names import Destination
from boxflow_backends.egress_gate.policy import Policy
from boxflow_backends.egress_gate.problems import Problem, not_allowed

T = TypeVar("T")

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host; :raises OSError: it has none."""

# Of one gate, so that a box that asks for slow names delays nobody else.
_LOOKUPS_AT_ONCE = 8
_MOST_ADDRESSES = 6


def system_resolver() -> Resolver:
    """What the machine itself would connect to: getaddrinfo(3), in threads."""
    limiter = anyio.CapacityLimiter(_LOOKUPS_AT_ONCE)

    def look_up(host: str, port: int) -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def resolve(host: str, port: int) -> Sequence[str]:
        # Left alone when its time is up: getaddrinfo(3) has a limit of its own, in resolv.conf(5).
        return await anyio.to_thread.run_sync(look_up, host, port, abandon_on_cancel=True, limiter=limiter)

    return resolve


@attrs.frozen(kw_only=True)
class Connector:
    """Opens connections to hosts that the policy allows, and to nothing else."""

    policy: Policy
    resolver: Resolver
    limits: Limits

    async def connect(self, destination: Destination, dial: Callable[[str, int], Awaitable[T]]) -> T:
        """A connection to *destination*, which the policy allows.

        :param dial: connects to an address and port; :raises OSError: it cannot
        :raises Problem: it has no address, one that is not public, or none that answers
        """
        address_and_port = await self._addresses(destination)
        for address, port in address_and_port[:_MOST_ADDRESSES]:
            try:
                with anyio.fail_after(self.limits.connect_s):
                    return await dial(address, port)
            except (OSError, TimeoutError):
                continue
        raise Problem(
            502,
            "Bad Gateway",
            f"{destination} does not accept connections; try again later",
            log=f"{destination} does not accept connections at {address_and_port}",
        )

    async def _addresses(self, destination: Destination) -> list[tuple[str, int]]:
        # Asked when the request was routed, too. Asked again here, where all ways out meet.
        if not self.policy.allows(destination):
            raise not_allowed(destination)
        if (endpoint := self.policy.override(destination)) is not None:
            return [(endpoint.address, endpoint.port or destination.port)]
        addresses = await self._look_up(destination)
        refused = [address for address in addresses if not is_public(address)]
        if refused:
            raise Problem(
                403,
                "Not a public address",
                f"the name of {destination} leads to an address that is not public; if that is meant, give it in the "
                "`resolve` of the box's Egress",
                log=f"{destination} leads to {refused}, not public; Egress.resolve can allow it",
            )
        return [(address, destination.port) for address in addresses]

    async def _look_up(self, destination: Destination) -> Sequence[str]:
        try:
            with anyio.fail_after(self.limits.head_s):
                addresses = await self.resolver(destination.host, destination.port)
        except TimeoutError:
            raise Problem(504, "Gateway Timeout", f"looking up {destination} took too long; try again") from None
        except (OSError, UnicodeError):
            addresses = ()
        if not addresses:
            raise Problem(502, "Bad Gateway", f"the name of {destination} has no address; check its spelling")
        return addresses
