"""Where do logs of an engine in this process go? To stderr, where nothing of them can steer the terminal."""

from __future__ import annotations

import logging

from boxflow.cli.printing import safe


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The line, or the lines where a traceback is part of it."""
        return safe(super().format(record), lines=True)


def log_to_stderr(*, verbose: bool) -> None:
    """Show warnings, and with *verbose* what is logged for information too."""
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    # Once: an embedding test may run several commands in one process.
    root.handlers[:] = [one for one in root.handlers if not isinstance(one.formatter, _SafeFormatter)]
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbose else logging.WARNING)
