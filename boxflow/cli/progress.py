"""What is shown of a run while it goes on? A line for each outcome and, on a terminal, what it waits for now."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.text import Text

from boxflow.cli.outcomes import outcome_line
from boxflow.cli.printing import console, safe
from boxflow.cli.views import OutcomeView


class Progress:
    """The progress of one run, on stderr.

    :param quiet: show nothing
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._console = console(stderr=True)
        self._status = self._console.status("") if self._console.is_terminal and not quiet else None

    @property
    def is_live(self) -> bool:
        """Whether there is a line that changes."""
        return self._status is not None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
            self.waits_for(())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def begins(self, run_id: str) -> None:
        """The run is there, new or found again."""
        if not self.quiet:
            self._console.print(Text(safe(f"run {run_id}"), style="dim"))

    def happened(self, outcome: OutcomeView) -> None:
        """One outcome more."""
        if self.quiet:
            return
        line = outcome_line(outcome)
        style = "red" if outcome.error is not None else ""
        about = f"  ({line.about})" if line.about else ""
        self._console.print(
            Text.assemble(
                (f"{outcome.seq:>5}  {outcome.at[11:19]}  ", "dim"), (safe(f"{line.what} {line.name}{about}"), style)
            )
        )

    def waits_for(self, waiting: Sequence[str]) -> None:
        """What the run waits for now; nothing: it works."""
        if self._status is not None:
            self._status.update(Text(safe(f"waits for {', '.join(waiting)}" if waiting else "runs"), style="dim"))
