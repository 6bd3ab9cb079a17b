"""How does a box reach some hosts and no others, with secrets that it never sees?

The box itself has no network. A directory of the engine's machine is mounted into it, with a unix socket; behind the
socket the *gate*, in the engine, is an HTTP proxy that looks names up, decides and connects. In the box a *forwarder*
listens on 127.0.0.1:3128 and pipes to the socket, for programs know proxies by host and port. Only the gate decides:
whoever talks to the socket directly gains nothing.

A sandbox puts it together so::

    check_policy(spec.network)                              # before the box is made
    gate = EgressGate(spec.network, directory=path, name=box_id, private_directory=elsewhere)
    await gate.open()                                       # serves path/gate.sock, writes path/ca-bundle.pem
    ...                                                     # mount `path` into the box, READ-ONLY, say at /run/boxflow
    env = box_environment("/run/boxflow")                   # of every command of the box
    argv = forwarder_argv("/run/boxflow/gate.sock")         # keep it running in the box; it says "ready"
    ...
    await gate.close()                                      # again `EgressGate(...).open()` in another engine: goes on

`directory` must be the box's alone, and the box must not be able to write to it. A unix socket can be connected to on a
read-only mount. `private_directory`, which the box must not see, keeps the gate's certificate authority, so that
programs that outlive the engine still trust the gate of the next one.
"""

from boxflow_backends.egress_gate.environment import FORWARDER_PORT, box_environment
from boxflow_backends.egress_gate.forwarder import forwarder_argv
from boxflow_backends.egress_gate.gate import EgressGate
from boxflow_backends.egress_gate.limits import Limits
from boxflow_backends.egress_gate.policy import check_policy

__all__ = ["FORWARDER_PORT", "EgressGate", "Limits", "box_environment", "check_policy", "forwarder_argv"]
