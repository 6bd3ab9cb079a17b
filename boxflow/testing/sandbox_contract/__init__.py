"""What every sandbox must do, as tests: subclass `SandboxContract` and give it your sandbox.

    from boxflow.testing import SandboxContract

    class TestMySandbox(SandboxContract):
        def make_sandbox(self, directory):
            return MySandbox(directory)

That is all that a backend has to write. The tests are coroutine functions; run them with any pytest plugin that runs
those, and give each a minute.

What a sandbox declares as a `Capability` it must keep; what it does not declare it must refuse with
`NotSupportedError`. Nothing is skipped: a test looks at `capabilities` and demands the one or the other.

The boxes need a POSIX shell as `sh`, `bash`, the programs of GNU coreutils, `setsid` (util-linux), `git` and `python3`,
and a Linux `/proc`. Their user need not be privileged, nor need the tests. No test leaves the machine.

Every sandbox that `make_sandbox` makes for one directory finds the same boxes. There may be other boxes beside those of
the test, as in a Docker engine: tests look for their own. A process tree is ended when nothing is left in whose
environment a mark stands that the test has put there, as seen from inside; so a backend with `ISOLATION` checks for
itself what its boxes leave behind on the machine.
"""

from boxflow.testing.sandbox_contract.bounds import BoundPromises
from boxflow.testing.sandbox_contract.boxes import BoxPromises
from boxflow.testing.sandbox_contract.commands import CommandPromises
from boxflow.testing.sandbox_contract.ending import EndingPromises
from boxflow.testing.sandbox_contract.environments import EnvironmentPromises
from boxflow.testing.sandbox_contract.escapes import EscapePromises
from boxflow.testing.sandbox_contract.files import FilePromises
from boxflow.testing.sandbox_contract.output import OutputPromises
from boxflow.testing.sandbox_contract.pausing import PausePromises
from boxflow.testing.sandbox_contract.serving import ServingPromises
from boxflow.testing.sandbox_contract.snapshots import SnapshotPromises
from boxflow.testing.sandbox_contract.terminals import TerminalPromises
from boxflow.testing.sandbox_contract.transfers import TransferPromises

__all__ = ["SandboxContract"]


# Classes of tests are put together by inheritance: that is how pytest finds them.
class SandboxContract(
    BoxPromises,
    CommandPromises,
    OutputPromises,
    EnvironmentPromises,
    EndingPromises,
    TerminalPromises,
    FilePromises,
    TransferPromises,
    EscapePromises,
    SnapshotPromises,
    PausePromises,
    BoundPromises,
    ServingPromises,
):
    """The promises of `Sandbox`, one a test."""
