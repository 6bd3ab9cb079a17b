"""How does the docker package reach a unix socket without leaving one open when nobody listens?

Its own connection forgets the socket that it could not connect. While an engine restarts that is one for each attempt.
"""

from __future__ import annotations

import socket
from typing import Any

from docker.transport import unixconn  # type: ignore[import-untyped]  # the docker package has no types

_connection: Any = unixconn.UnixHTTPConnection
_pool: Any = unixconn.UnixHTTPConnectionPool
_adapter: Any = unixconn.UnixHTTPAdapter


class _Connection(_connection):  # type: ignore[misc]  # as above
    def connect(self) -> None:
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unix.settimeout(self.timeout)
            unix.connect(self.unix_socket)
        except BaseException:
            unix.close()
            raise
        self.sock = unix


class _Pool(_pool):  # type: ignore[misc]  # as above
    def _new_conn(self) -> _Connection:
        return _Connection(self.base_url, self.socket_path, self.timeout)


class UnixAdapter(_adapter):  # type: ignore[misc]  # as above
    """Docker's adapter for requests, with connections that clean up.

    :param connections: how many are kept at most
    """

    def __init__(self, path: str, *, timeout_s: int, connections: int) -> None:
        _adapter.__init__(self, f"http+unix://{path}", timeout_s, max_pool_size=connections)

    def get_connection(self, url: str, proxies: Any) -> Any:
        """The pool for *url*, which is the same for all of this socket."""
        with self.pools.lock:
            pool = self.pools.get(url)
            if pool is None:
                pool = _Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
                self.pools[url] = pool
        return pool
