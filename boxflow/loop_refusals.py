"""What does the private loop refuse, and what does it tell the author of the body to write instead?"""

from __future__ import annotations

from typing import Any

from boxflow.errors import NotDurableError

_LIFE = "the engine runs this loop; await what you need in the body"
_STEP = 'put it in a step: `await ctx.run("name", function, ...)`'
_THREAD = f"`ctx.run` runs a plain function in a worker thread; {_STEP}"

REMEDIES = {
    **dict.fromkeys(("run_forever", "run_until_complete", "stop"), _LIFE),
    **dict.fromkeys(("run_in_executor", "set_default_executor"), _THREAD),
    **dict.fromkeys(
        (
            "getaddrinfo",
            "getnameinfo",
            "create_connection",
            "create_server",
            "create_unix_connection",
            "create_unix_server",
            "create_datagram_endpoint",
            "connect_accepted_socket",
            "start_tls",
            "sendfile",
            "connect_read_pipe",
            "connect_write_pipe",
            "subprocess_shell",
            "subprocess_exec",
            "add_reader",
            "remove_reader",
            "add_writer",
            "remove_writer",
            "sock_recv",
            "sock_recv_into",
            "sock_recvfrom",
            "sock_recvfrom_into",
            "sock_sendall",
            "sock_sendto",
            "sock_sendfile",
            "sock_connect",
            "sock_accept",
            "add_signal_handler",
            "remove_signal_handler",
        ),
        _STEP,
    ),
}
"""Every method of `asyncio.AbstractEventLoop` that would touch the world, and what to do instead."""

_FAMILIAR = {
    "run_in_executor": " (which `asyncio.to_thread` uses)",
    "create_connection": " (which `asyncio.open_connection` and most network clients use)",
    "subprocess_exec": " (which `asyncio.create_subprocess_exec` uses)",
    "subprocess_shell": " (which `asyncio.create_subprocess_shell` uses)",
}


def refused(call: str) -> Any:
    """A method in the place of `loop.<call>` that raises `NotDurableError` with the remedy."""

    def refuse(*_args: object, **_options: object) -> None:
        raise NotDurableError(
            f"`loop.{call}()`{_FAMILIAR.get(call, '')} was called in a workflow body, whose only inputs are its "
            f"payload and its journal; {REMEDIES[call]}"
        )

    refuse.__name__ = call
    refuse.__qualname__ = f"WorkflowLoop.{call}"
    return refuse


_FOREIGN = (
    # The words of the C and Python tasks, of `asyncio.mixins`, and of `gather`, `as_completed` and `ensure_future`.
    (RuntimeError, "attached to a different loop"),
    (RuntimeError, "is bound to a different event loop"),
    (ValueError, "belongs to a different loop than"),
)


def as_not_durable(error: BaseException | None) -> NotDurableError | None:
    """*error* as a `NotDurableError`, where it says that the body used an object of another event loop; else None."""
    for kind, words in _FOREIGN:
        if error.__class__ is kind and words in str(error):
            refusal = NotDurableError(
                # Not the words of *error*: they hold reprs with memory addresses, which differ on replay.
                "the workflow body waits for something that belongs to another event loop, which no journal records; "
                "make tasks, futures, locks and queues in the body, and put what lives outside in a step: "
                '`await ctx.run("name", function, ...)`'
            )
            refusal.__cause__ = error
            return refusal
    return None
