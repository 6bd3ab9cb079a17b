"""What is in a piece of JSON that should be an object or a list, but can be anything?"""

from __future__ import annotations

from typing import cast


def object_of(value: object) -> dict[str, object]:
    """*value* when it is a JSON object, else an empty one."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[object]:
    """*value* when it is a JSON list, else an empty one."""
    return cast("list[object]", value) if isinstance(value, list) else []
