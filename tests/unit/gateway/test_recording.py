"""Answers that are remembered on their way, and the room for all of them."""

from __future__ import annotations

from serving._proto import records_pb2 as pb
from serving.gateway.recording import Recorder, Room

JSON = {"content-type": "application/json"}


def recorded(room: Room, *parts: bytes, status: int = 200, head: dict[str, str] = JSON, end: bool = True) -> Recorder:
    recorder = Recorder(room)
    recorder.begin(status, head, pb.Endpoint(id="one"))
    for part in parts:
        recorder.add(part)
    if end:
        recorder.end()
    return recorder


def test_a_whole_answer() -> None:
    room = Room(100)
    recorder = recorded(room, b"ab", b"cd")
    assert (recorder.whole, recorder.data, recorder.media_type) == (True, b"abcd", "application/json")
    assert recorder.endpoint is not None
    assert recorder.endpoint.id == "one"
    assert room.left == 96
    recorder.forget()
    recorder.forget()
    assert room.left == 100


def test_what_is_not_whole_or_not_good() -> None:
    room = Room(100)
    assert not recorded(room, b"ab", end=False).whole
    for other in (
        recorded(room, b"ab", status=400),
        recorded(room, b"ab", head={**JSON, "content-encoding": "gzip"}),
    ):
        assert not other.whole
        assert other.data == b""
    assert not Recorder(room).whole


def test_one_that_finds_no_room_gives_back_what_it_had() -> None:
    room = Room(5)
    first = recorded(room, b"abc", end=False)
    second = recorded(room, b"ab", b"c", b"d")
    assert not second.whole
    assert room.left == 2
    first.add(b"de")
    first.end()
    assert first.whole
    assert room.left == 0
    assert not recorded(Room(1 << 30), b"x" * (16 << 20), b"y").whole


def test_without_a_room_nothing_is_remembered() -> None:
    recorder = Recorder()
    recorder.begin(200, JSON, pb.Endpoint())
    recorder.add(b"x")
    recorder.end()
    assert not recorder.whole
