"""Which isolated boxes have namespaces, and who makes and ends them? Blocking: called in threads."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from boxflow.errors import BoxNotFoundError, BoxStateError, SandboxError, SandboxUnavailableError
from boxflow.ports import BoxStatus, Egress
from boxflow_backends.local_sandbox.entrance import Entrance
from boxflow_backends.local_sandbox.holder import Holder, await_end, kill_holder, programs, start_holder
from boxflow_backends.local_sandbox.layout import GATE, HOLDER, HOME, PLACES, Layout
from boxflow_backends.local_sandbox.profile import Profile
from boxflow_backends.local_sandbox.records import Record, Records
from boxflow_backends.local_sandbox.users import isolated_user

_PROBE_S: Final = 20.0

# What keeps an unprivileged user from making namespaces, and how it reads when it does.
_SETTINGS: Final = (
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("user/max_user_namespaces", "0", "1000"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
)


class Enclosures:
    """The namespaces of the isolated boxes below one root.

    :param end_marked: ends all processes that carry a mark
    """

    def __init__(self, layout: Layout, records: Records, end_marked: Callable[[str], None]) -> None:
        self._layout = layout
        self._records = records
        self._end_marked = end_marked
        self._no_namespaces: bool | None = None

    def probe(self) -> None:
        """Make a box and run a program in it.

        :raises SandboxUnavailableError: what is needed is not installed, or not permitted; it says what to do
        """
        programs()
        with tempfile.TemporaryDirectory(prefix="boxflow-probe-") as name:
            directory = Path(name).resolve()
            marks = self._layout.exec_mark("probe", name)
            profile = Profile(
                box_id="probe",
                user=isolated_user(),
                home=directory,
                places=(directory,),
                open_network=False,
                gate=None,
                no_namespaces=self._can_forbid_namespaces(),
            )
            try:
                holder = start_holder(profile, marks)
                try:
                    _try_to_enter(holder, directory, marks)
                finally:
                    self._end(holder, marks)
            except SandboxError as exc:
                raise SandboxUnavailableError(f"isolation='bubblewrap' does not work here: {exc}{_advice()}") from exc
            finally:
                self._end_marked(marks)

    def status(self, box_id: str) -> BoxStatus:
        """Whether the box has namespaces: running, or stopped, as after the machine was started anew."""
        holder = self._holder(box_id)
        return BoxStatus.RUNNING if holder is not None and holder.is_alive else BoxStatus.STOPPED

    def ensure(self, record: Record) -> None:
        """Give the box namespaces, unless it has some. The box is `locked`.

        :raises SandboxUnavailableError: bubblewrap cannot make them
        """
        box_id = record.box_id
        if self.status(box_id) is BoxStatus.RUNNING:
            return
        mark = self._layout.exec_mark(box_id, "\0holder")
        # One that an engine has started and died before it could write that down.
        self._end_marked(mark)
        gate = self._layout.box(box_id) / GATE if isinstance(record.network, Egress) else None
        profile = Profile(
            box_id=box_id,
            user=isolated_user(),
            home=self._layout.place(box_id, HOME),
            places=[self._layout.place(box_id, place) for place in PLACES],
            open_network=record.network == "open",
            gate=gate,
            no_namespaces=self._can_forbid_namespaces(),
        )
        try:
            holder = start_holder(profile, f"{self._layout.mark(box_id)} {mark}")
        except BaseException:
            self._end_marked(mark)
            raise
        try:
            holder.keep(self._layout.box(box_id) / HOLDER)
        except FileNotFoundError as exc:
            self._end(holder, mark)
            raise BoxNotFoundError(box_id) from exc
        except BaseException:
            self._end(holder, mark)
            raise

    def entrance(self, box_id: str) -> Entrance:
        """The way into the box's namespaces.

        :raises BoxStateError: it has none
        """
        holder = self._holder(box_id)
        if holder is None:
            raise BoxStateError(f"box {box_id!r} is stopped; `await box.resume()` starts it again, with its files")
        return Entrance(box_id, holder)

    def namespace(self, box_id: str) -> int | None:
        """The number of its process namespace; None when it has none."""
        holder = self._holder(box_id)
        return None if holder is None else holder.namespace

    def end(self, box_id: str) -> None:
        """End its namespaces with all that runs in them, or was on its way into them. No error when it has none."""
        holder = self._holder(box_id)
        if holder is None:
            self._end_marked(self._layout.mark(box_id))
        else:
            self._end(holder, self._layout.mark(box_id))

    def _end(self, holder: Holder, mark: str) -> None:
        kill_holder(holder)
        # The processes outside that stand for those inside.
        self._end_marked(mark)
        await_end(holder)

    def _holder(self, box_id: str) -> Holder | None:
        return Holder.kept(self._layout.box(box_id) / HOLDER)

    def _can_forbid_namespaces(self) -> bool:
        """Bubblewrap can since 0.8."""
        if self._no_namespaces is None:
            known = subprocess.run(  # noqa: S603  # bubblewrap's own help
                (programs()["bwrap"], "--help"), capture_output=True, timeout=_PROBE_S, check=False, text=True
            )
            self._no_namespaces = "--disable-userns" in known.stdout + known.stderr
        return self._no_namespaces


def _try_to_enter(holder: Holder, directory: Path, marks: str) -> None:
    null = subprocess.DEVNULL
    with Entrance("probe", holder) as entrance:
        popen = entrance.start(("true",), str(directory), {}, marks, "", (null, null, null), tty=False)
        if popen.wait(_PROBE_S) != 0:
            raise SandboxError("a program that was started in it failed")


def _advice() -> str:
    """What in this machine's settings may be the reason."""
    found: list[str] = []
    for name, bad, good in _SETTINGS:
        with suppress(OSError):
            if Path("/proc/sys", name).read_text(encoding="utf-8").strip() == bad:
                found.append(f"{name.replace('/', '.')}={good}")
    if found:
        return f"; try `sysctl -w {' '.join(found)}`"
    return (
        "; in a container, the seccomp or AppArmor profile of the container may forbid namespaces "
        "(clone(2) with CLONE_NEWUSER, mount(2))"
    )
