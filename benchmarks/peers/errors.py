"""What is said when a peer cannot be measured? The reason, which goes into its row of the table."""

from __future__ import annotations


class PeerUnavailableError(Exception):
    """A peer, its server or its driver cannot be installed, started or run; the message says what to do."""
