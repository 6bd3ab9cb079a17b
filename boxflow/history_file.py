"""What is a history file? One run with its journal as one JSON document, to keep in a repository and compare.

    {
      "format": 1,
      "run": {...},            the record: workflow, version, payload
      "head": {...},           how it stood
      "journal": [
        {"kind": "step_done", "seq": 1, ...},
        ...
      ],
      "blobs": {...}           values that were too large for the journal, as JSON text, by name
    }

One outcome a line, fields in one order, a newline last: two histories are compared with `diff`, and the same history is
always the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import attrs
import msgspec

from boxflow.errors import HistoryFormatError, RunNotFoundError
from boxflow.model import Blob, Head, Outcome, RunRecord, Value
from boxflow.ports import Store, StoredRun

_Entry = TypeVar("_Entry", bound=msgspec.Struct)

FORMAT = 1
"""The newest format that is read, and the one that is written."""


@attrs.frozen(kw_only=True)
class History:
    """A run and everything that happened to it.

    :param outcomes: the whole journal, `seq` counting from 1
    :param blobs: values that the record, the head and the outcomes refer to, by the blob's name
    """

    record: RunRecord
    head: Head
    outcomes: tuple[Outcome, ...]
    blobs: Mapping[str, bytes] = attrs.field(factory=dict[str, bytes])

    def payload(self) -> bytes:
        """What the run was started with, encoded. :raises HistoryFormatError: its blob is missing"""
        return bytes(self.record.payload) if self.record.payload_blob is None else self.blob(self.record.payload_blob)

    def result(self) -> bytes:
        """What the run returned, encoded; `null` before it has. :raises HistoryFormatError: its blob is missing"""
        return bytes(self.head.result) if self.head.result_blob is None else self.blob(self.head.result_blob)

    def filled(self) -> list[Outcome]:
        """The journal with every value in its outcome. :raises HistoryFormatError: a blob is missing"""
        return [
            outcome if blob is None else msgspec.structs.replace(outcome, value=Value(self.blob(blob)))
            for outcome in self.outcomes
            for blob in (_blob_of(outcome),)
        ]

    def blob(self, blob: Blob) -> bytes:
        """The value that *blob* refers to. :raises HistoryFormatError: it is missing, or of another size"""
        data = self.blobs.get(blob.blob)
        if data is None or len(data) != blob.size_bytes:
            what = "is missing" if data is None else f"has {len(data)} bytes instead of {blob.size_bytes}"
            raise HistoryFormatError(
                f"the history of run {self.record.run_id!r} is damaged: its value {blob.blob!r} {what}; export it again"
            )
        return data


async def read_history(store: Store, run_id: str) -> History:
    """The history of *run_id* as it stands in *store*, which must be open. The run may be going on meanwhile.

    :raises RunNotFoundError: no such run
    :raises StoreCorruptError: a value is missing
    """
    stored = await store.get_run(run_id)
    if stored is None:
        raise RunNotFoundError(run_id)
    # What was appended since the head was read belongs to a later head.
    outcomes = tuple((await store.read_journal(run_id))[: stored.head.length])
    blobs = {blob.blob: await store.get_blob(run_id, blob) for blob in _blobs(stored, outcomes)}
    return History(record=stored.record, head=stored.head, outcomes=outcomes, blobs=blobs)


class _Document(msgspec.Struct, kw_only=True):
    format: int
    run: RunRecord
    head: Head
    journal: list[Outcome]
    blobs: dict[str, str] = {}


class _Format(msgspec.Struct):
    format: int


def dump_history(history: History) -> bytes:
    """*history* as the bytes of a history file."""
    journal = [f"    {_line(outcome)}" for outcome in history.outcomes]
    # As text: a value must come back to the byte, and a document keeps only what it means.
    blobs = [f"    {_line(name)}: {_line(history.blobs[name].decode())}" for name in sorted(history.blobs)]
    parts = [
        f'  "format": {FORMAT}',
        f'  "run": {_line(history.record)}',
        f'  "head": {_line(history.head)}',
        f'  "journal": [{_block(journal)}]',
        f'  "blobs": {{{_block(blobs)}}}',
    ]
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def load_history(data: bytes) -> History:
    """The history in the bytes of a history file.

    :raises HistoryFormatError: it is none, or of a newer format, or its journal has gaps
    """
    try:
        number = msgspec.json.decode(data, type=_Format).format
        if number > FORMAT or number < 1:
            raise HistoryFormatError(
                f"this history has format {number}, and this boxflow reads up to {FORMAT}; read it with a newer boxflow"
            )
        document = msgspec.json.decode(data, type=_Document)
        history = History(
            record=_compact(document.run),
            head=_compact(document.head),
            outcomes=tuple(_compact(outcome) for outcome in document.journal),
            blobs={name: text.encode() for name, text in document.blobs.items()},
        )
    except (msgspec.DecodeError, UnicodeError) as error:
        raise HistoryFormatError(
            f"this is no history of a run: {error}; make one with `boxflow.history_file.dump_history`"
        ) from error
    _check(history)
    return history


def _check(history: History) -> None:
    for expected, outcome in enumerate(history.outcomes, start=1):
        if outcome.seq != expected:
            raise HistoryFormatError(
                f"the history of run {history.record.run_id!r} is damaged: outcome {expected} has the number "
                f"{outcome.seq}; export it again"
            )
    if history.head.length != len(history.outcomes):
        raise HistoryFormatError(
            f"the history of run {history.record.run_id!r} is damaged: its head speaks of {history.head.length} "
            f"outcomes, and its journal has {len(history.outcomes)}; export it again"
        )


def _line(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _block(lines: Sequence[str]) -> str:
    return "\n" + ",\n".join(lines) + "\n  " if lines else ""


def _compact(entry: _Entry) -> _Entry:
    """*entry* with its values as the codec writes them, without the spaces that a document has for its readers."""
    changes = {
        name: Value(msgspec.json.format(bytes(value), indent=-1))
        for name in ("value", "payload", "result")
        if isinstance(value := getattr(entry, name, None), msgspec.Raw)
    }
    return msgspec.structs.replace(entry, **changes) if changes else entry


def _blob_of(outcome: Outcome) -> Blob | None:
    return getattr(outcome, "blob", None)


def _blobs(stored: StoredRun, outcomes: Sequence[Outcome]) -> list[Blob]:
    found = [stored.record.payload_blob, stored.head.result_blob, *map(_blob_of, outcomes)]
    return [blob for blob in found if blob is not None]
