"""What can be wrong with a script?"""

from __future__ import annotations

from boxflow.errors import BoxflowError


class ScriptError(BoxflowError, RuntimeError):
    """A script has no answer for a request; the program that asked gets this message, with status 400."""
