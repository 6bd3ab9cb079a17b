"""The index of an archive finds every run of it, no other, and nothing where it was damaged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from boxflow.errors import StoreCorruptError
from boxflow.model import RunStatus
from boxflow_backends.file_store.archive_index import ArchiveIndex, IndexWriter, Row, hash_of
from boxflow_backends.file_store.lines import Kind, place

NUMBER = 7
STATUSES = tuple(RunStatus)


def row(number: int) -> Row:
    return Row(float(number // 3), 9.0, place(Kind.ARCHIVE, NUMBER, 1000 + number), STATUSES[number % len(STATUSES)])


def written(count: int) -> bytes:
    writer = IndexWriter()
    for number in range(count):
        writer.add(f"run-{number}", row(number))
    return b"".join(writer.finish(12345, lambda: None))


def opened(data: bytes) -> ArchiveIndex:
    return ArchiveIndex(memoryview(data), Path("archive/00000007.index"), NUMBER)


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 1_000, 20_000])
def test_every_run_is_found_with_its_row_and_no_other(count: int) -> None:
    index = opened(written(count))
    assert index.count == count and index.data_bytes == 12345
    assert index.newest_archived_at == (9.0 if count else 0.0)
    for number in range(count):
        assert index.rows_with(hash_of(f"run-{number}")) == [row(number)]
    for number in range(count, count + 500):
        assert index.rows_with(hash_of(f"run-{number}")) == []
    assert index.rows_with(0) == index.rows_with((1 << 64) - 1) == []


def test_runs_of_one_hash_are_all_found() -> None:
    writer = IndexWriter()
    for number in range(100):
        writer.add("twin" if number % 10 == 0 else f"run-{number}", row(number))
    index = opened(b"".join(writer.finish(1, lambda: None)))
    assert index.rows_with(hash_of("twin")) == [row(number) for number in range(0, 100, 10)]


def test_runs_come_by_age_from_both_ends() -> None:
    index = opened(written(1_000))
    assert list(index.oldest_first()) == [row(number) for number in range(1_000)]
    assert list(index.newest_first()) == [row(number) for number in reversed(range(1_000))]
    assert list(index.newest_first(until=100.0)) == [row(number) for number in reversed(range(303))]
    assert list(index.newest_first(until=-1.0)) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_byte_is_refused_before_anything_that_depends_on_it_is_said(seed: int) -> None:
    good = written(2_000)
    for offset in random.Random(seed).sample(range(len(good)), 15):
        data = bytearray(good)
        data[offset] ^= 1 << random.Random(offset).randrange(8)
        refused = False
        try:
            index = opened(bytes(data))
        except StoreCorruptError:
            continue
        for number in range(2_000):
            try:
                assert index.rows_with(hash_of(f"run-{number}")) == [row(number)]
            except StoreCorruptError as error:
                assert "00000007.index' is damaged" in str(error)
                refused = True
        assert refused, f"byte {offset} was changed and nobody saw it"


def test_what_is_cut_off_is_refused_at_once() -> None:
    good = written(100)
    for size in (0, 10, 47, 48, 100, len(good) - 1):
        with pytest.raises(StoreCorruptError, match="index"):
            opened(good[:size])
