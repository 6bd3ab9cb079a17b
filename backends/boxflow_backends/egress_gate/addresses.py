"""Is an address one of the public internet, in whatever clothes it comes?"""

from __future__ import annotations

import ipaddress

# Python's `is_global` follows IANA's registries; these it leaves to us, or decides differently between versions.
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "192.0.0.0/24",  # RFC 6890: protocol assignments
        "192.88.99.0/24",  # RFC 7526: relays of 6to4
        "168.63.129.16/32",  # Azure's host, which is public by number only
    )
)
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # RFC 2928: protocol assignments, Teredo among them, which carries an IPv4 address
        "2002::/16",  # RFC 3056: 6to4, likewise
        "3fff::/20",  # RFC 9637: documentation
    )
)
# RFC 4291: all that was ever given out for use between networks.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# RFC 6052: what a DNS64 makes of an IPv4 address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether *text* is an address that may be connected to; an IPv4 address inside an IPv6 one must be so too."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is None:
            refused = any(address in network for network in _REFUSED_V6)
            return address.is_global and address in _GLOBAL_UNICAST and not refused
        address = inner
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _REFUSED_V4)
    )
