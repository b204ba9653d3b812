"""Forms with files in pieces of any size: what was sent comes out, and what is wrong is refused within bounds."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.batch.multipart import (
    MAX_HEAD_BYTES,
    MAX_PARTS,
    MultipartReader,
    PartBegins,
    PartData,
    PartEnds,
    boundary_of,
)
from serving.openai.errors import InvalidRequest

BOUNDARY = b"xyz"
Part = tuple[str, str | None, bytes]


def encoded(parts: list[Part], *, preamble: bytes = b"", epilogue: bytes = b"\r\n") -> bytes:
    made = preamble
    for at, (name, filename, data) in enumerate(parts):
        given = f'; filename="{filename}"' if filename is not None else ""
        head = f'Content-Disposition: form-data; name="{name}"{given}\r\nContent-Type: text/plain\r\n\r\n'
        made += (b"\r\n" if at or preamble else b"") + b"--" + BOUNDARY + b"\r\n" + head.encode() + data
    return made + (b"\r\n" if made else b"") + b"--" + BOUNDARY + b"--" + epilogue


def read(pieces: list[bytes]) -> list[Part]:
    reader, found = MultipartReader(BOUNDARY), []
    name, filename, data = "", None, b""
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, PartBegins):
                name, filename, data = event.name, event.filename, b""
            elif isinstance(event, PartData):
                assert event.data
                data += event.data
            else:
                assert isinstance(event, PartEnds)
                found.append((name, filename, data))
    reader.finish()
    return found


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


# Much of it looks like the end of a part.
CONTENT = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"xy", b"\r\n--xy", b"--xyz", b"a" * 50])).map(
    b"".join
)
PARTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "f.jsonl", "ä ö"]), CONTENT), max_size=4)


@given(PARTS, st.lists(st.integers(0, 30)), st.sampled_from([b"", b"hello\r\nthere"]), st.binary(max_size=20))
def test_what_was_sent_comes_out(parts: list[Part], sizes: list[int], preamble: bytes, after: bytes) -> None:
    parts = [(name, filename, data.replace(b"\r\n--xyz", b"")) for name, filename, data in parts]
    if any(b"\r\n--xyz" in b"\r\n" + data for _, _, data in parts):
        return
    sent = encoded(parts, preamble=preamble, epilogue=after)
    assert read(cut(sent, sizes)) == parts


@given(PARTS.filter(bool), st.data())
def test_a_form_that_is_cut_off_is_refused(parts: list[Part], data: st.DataObject) -> None:
    parts = [(name, filename, b"some") for name, filename, _ in parts]
    sent = encoded(parts, epilogue=b"")
    shorter = sent[: data.draw(st.integers(0, len(sent) - 1))]
    with pytest.raises(InvalidRequest):
        read([shorter])


@given(st.binary(max_size=2000), st.lists(st.integers(0, 30)))
def test_any_bytes_are_refused(rubbish: bytes, sizes: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        read(cut(rubbish, sizes))


CHARSETS = st.sampled_from(["utf-8", "idna", "punycode", "undefined", "utf-7", "unicode_escape", "hex", "\0", "", "x"])


@given(CHARSETS, st.binary(max_size=8), st.sampled_from(["filename*", "filename*0*", "filename*1", "name*"]))
def test_any_charset_of_a_name_is_answered(charset: str, name: bytes, field: str) -> None:
    value = charset.encode() + b"''" + b"".join(b"%%%02x" % one for one in name)
    head = b"--xyz\r\ncontent-disposition: form-data; name=file; " + field.encode() + b"=" + value + b"\r\n\r\n"
    with contextlib.suppress(InvalidRequest):  # nothing else
        [[part]] = [list(MultipartReader(BOUNDARY).feed(head))]
        assert isinstance(part, PartBegins)
        (part.filename or "").encode()


@given(PARTS, st.binary(min_size=1, max_size=10), st.data())
def test_any_bytes_in_between_are_answered(parts: list[Part], rubbish: bytes, data: st.DataObject) -> None:
    sent = encoded(parts)
    at = data.draw(st.integers(0, len(sent)))
    with contextlib.suppress(InvalidRequest):  # nothing else
        read([sent[:at], rubbish, sent[at:]])


@pytest.mark.parametrize(
    "sent",
    [
        b"x" * (MAX_HEAD_BYTES + 99),
        b"--xyz\r\n" + b"a: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"--xyz\r\n" + b"x" * (MAX_HEAD_BYTES + 99),
        b"--xyz" + b" " * (MAX_HEAD_BYTES + 99),
        b"--xyzw\r\n",
        b"--xyz\r\nno colon\r\n\r\n",
        b"--xyz\r\ncontent-type: text/plain\r\n\r\n",
        b"--xyz\r\ncontent-disposition: attachment; name=a\r\n\r\n",
        b"--xyz\r\ncontent-disposition: form-data\r\n\r\n",
        b"--xyz\r\ncontent-disposition: form-data; name=a\r\ncontent-transfer-encoding: base64\r\n\r\n",
        b"--xyz\r\ncontent-disposition: form-data; name=a; filename*=a\0b''x\r\n\r\n",
        b"--xyz\r\ncontent-disposition: form-data; name=a; filename*=idna''x%ff\r\n\r\n",
        b"--xyz\r\ncontent-disposition: form-data; name=a; filename*=unicode_escape''%5Cud800\r\n\r\n",
        encoded([("a", None, b"")] * (MAX_PARTS + 1)),
    ],
)
def test_what_is_refused_at_once(sent: bytes) -> None:
    reader = MultipartReader(BOUNDARY)
    with pytest.raises(InvalidRequest):
        [list(reader.feed(sent[at : at + 100])) for at in range(0, len(sent), 100)]


def test_memory_is_bounded_by_what_is_fed() -> None:
    reader = MultipartReader(BOUNDARY)
    list(reader.feed(encoded([("file", "f", b"")])[: -len(b"\r\n--xyz--\r\n")]))
    for _ in range(100):
        events = list(reader.feed(b"x" * 10_000))
        assert all(isinstance(one, PartData) for one in events)
        assert len(reader._rest) < 100


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
    ],
)
def test_boundaries(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'x' * 71}",
        "multipart/form-data; boundary=ä",
        "multipart/mixed; boundary=abc",
        "multipart/form-data; boundary*=utf-8''abc",
    ],
)
def test_no_usable_boundary(content_type: str) -> None:
    with pytest.raises(InvalidRequest):
        boundary_of(content_type)
