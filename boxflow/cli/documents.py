"""How do runs and boxes look as JSON where no server answers? As its answers do, made of the same documents."""

from __future__ import annotations

from typing import cast

import msgspec

from boxflow.asgi.documents import ExecDocument, run_document
from boxflow.boxes import ExecResult
from boxflow.cli.clients import Document
from boxflow.errors import CommandTimeoutError
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


def exec_document(result: ExecResult) -> ExecDocument:
    """How a command in a box ended."""
    return ExecDocument(
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
        duration_s=result.duration_s,
        truncated=result.truncated,
        timed_out=False,
    )


def timed_out_document(error: CommandTimeoutError) -> ExecDocument:
    """How a command ended that was killed at its deadline."""
    return ExecDocument(
        exit_code=137,
        stdout=error.stdout,
        stderr=error.stderr,
        duration_s=error.timeout_s,
        truncated=False,
        timed_out=True,
    )
