"""Are the marks around a program's output taken out whole, however the bytes come?"""

from __future__ import annotations

import pytest

from boxflow_backends.docker_sandbox.marks import Marks
from boxflow_backends.docker_sandbox.stream import ExecStream

NONCE = "boxflow:0123456789abcdef:"
MARK = b"\0" + NONCE.encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 28, 1000])
def test_output_with_anything_like_a_mark_arrives_whole_in_pieces_of_any_size(size: int) -> None:
    own = b"before\0" + MARK[:-1] + b"\0\0boxflow:\0between" + MARK[:5]
    sent = MARK + b"start\0" + own + MARK + b"137\0left by others"
    marks = Marks(NONCE)
    got = b"".join(marks.feed(sent[at : at + size]) for at in range(0, len(sent), size))
    assert (got + marks.rest(), marks.start, marks.end) == (own, "start", "137")


def test_what_is_held_back_comes_out_at_the_end() -> None:
    marks = Marks(NONCE)
    assert marks.feed(b"text" + MARK[:4]) == b"text"
    assert (marks.rest(), marks.end) == (MARK[:4], None)


async def test_a_start_is_known_before_a_full_stream_is_not_read_on() -> None:
    stream = ExecStream(nonce=NONCE, tty=False)
    stream.data_received(b"HTTP/1.1 101 UPGRADED\r\n\r\n" + frame(1, MARK + b"start\0" + bytes(10_000_000)))
    assert (stream.announced, stream.started.is_set()) == ("start", True)


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("size", [1, 5, 64, 10_000])
async def test_frames_are_taken_apart_and_the_end_is_known_from_both_streams(size: int) -> None:
    sent = b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n"
    sent += frame(1, MARK + b"start\0out") + frame(2, MARK + b"start\0") + frame(2, b"err") + frame(1, MARK + b"3\0")
    stream = ExecStream(nonce=NONCE, tty=False)
    for at in range(0, len(sent), size):
        stream.data_received(sent[at : at + size])
    assert (stream.announced, stream.exit_code, stream.ended.is_set()) == ("start", None, False)
    stream.data_received(frame(2, MARK + b"3\0"))
    got = {"stdout": b"", "stderr": b""}
    while (chunk := await stream.next_chunk()) is not None:
        got[chunk[0]] += chunk[1]
    assert (got, stream.exit_code) == ({"stdout": b"out", "stderr": b"err"}, 3)


@pytest.mark.parametrize("size", [1, 9, 10_000])
def test_a_refusal_is_read_with_its_words(size: int) -> None:
    body = b'{"message":"Container x is paused"}'
    sent = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    stream = ExecStream(nonce=NONCE, tty=False)
    for at in range(0, len(sent), size):
        stream.data_received(sent[at : at + size])
    assert (stream.status, stream.words, stream.ended.is_set()) == (409, "Container x is paused", True)
