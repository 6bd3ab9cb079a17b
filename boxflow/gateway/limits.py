"""How much of the gateway may agents take, and for how long?"""

from __future__ import annotations

import attrs

_MIB = 1_048_576


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of one gateway. The defaults suit some dozens of agents.

    :param connections: at once. When one more comes, the one that has asked nothing for longest is closed; when all of
        them are being served, it waits
    :param account_requests: of one account at once; more are told to come back in a second
    :param head_bytes: of a request without its body
    :param body_bytes: of the body of a request
    :param small_body_bytes: up to here a body is kept in memory without asking
    :param large_bodies_bytes: of all larger bodies together; those of one account may have half of it
    :param head_s: for a request to arrive without its body
    :param body_s: for its body to arrive
    :param keep_s: between two requests on a connection
    :param connect_s: for a connection to the model's host, and again for its TLS handshake
    :param idle_s: without a byte either way, then a request is given up; models think for minutes
    """

    connections: int = 256
    account_requests: int = 128
    head_bytes: int = 65_536
    body_bytes: int = 64 * _MIB
    small_body_bytes: int = _MIB
    large_bodies_bytes: int = 256 * _MIB
    head_s: float = 10.0
    body_s: float = 120.0
    keep_s: float = 75.0
    connect_s: float = 10.0
    idle_s: float = 600.0
