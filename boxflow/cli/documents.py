"""How do runs and boxes look as JSON where no server answers? As its answers do, made of the same documents."""

from __future__ import annotations

from typing import cast

import msgspec

from boxflow.asgi.documents import run_document
from boxflow.cli.clients import Document
from boxflow.ports import StoredRun
from boxflow.runs import run_info


def as_document(answer: msgspec.Struct) -> Document:
    """*answer* as whoever asks a server reads it."""
    return cast("Document", msgspec.json.decode(msgspec.json.encode(answer)))


def stored_document(stored: StoredRun, result: bytes | None = None) -> Document:
    """A run as its store has it.

    :param result: what it returned, encoded
    """
    return as_document(run_document(run_info(stored.record, stored.head, stored.head.status), result))
