"""Where are agent programs that boxflow has installed on this machine?"""

from __future__ import annotations

import os
from pathlib import Path


def default_directory() -> Path:
    """Where programs are installed unless said otherwise: `BOXFLOW_AGENTS`, or a place of the user's own."""
    if named := os.environ.get("BOXFLOW_AGENTS"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "boxflow" / "agents"
