"""How much of the gate may one box take, and for how long?"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of one gate. The defaults suit a box in which an agent works.

    :param connections: at once; more of them wait until one ends
    :param head_bytes: of a request without its body
    :param head_s: for a request to arrive without its body, for a TLS handshake, and for a look-up
    :param connect_s: for a connection to one address of a host
    :param keep_s: between two requests on a connection
    :param idle_s: without a byte either way, then a tunnel or a request is given up
    """

    connections: int = 256
    head_bytes: int = 32_768
    head_s: float = 10.0
    connect_s: float = 5.0
    keep_s: float = 60.0
    idle_s: float = 600.0
