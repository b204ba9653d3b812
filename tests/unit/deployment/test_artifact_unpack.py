"""Unpacking trusts nothing: hostile and damaged archives leave nothing outside the folder and say what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.deployment.artifact_unpack import unpack
from serving.errors import DataLoss, InvalidArgument, MeshError


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(mode="w", fileobj=buffer, format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info, content


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def run(data: bytes, target: Path, *, expected: bytes | None = None) -> None:
    """Unpacks `data`, whose record is that of `expected`."""
    record = data if expected is None else expected
    unpack(io.BytesIO(data), target, name="memory://x.tar", digest=digest(record), size_bytes=len(record))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "inside" / "files"
    folder.mkdir(parents=True)
    return folder


GOOD = tar_of(member("m", tarfile.DIRTYPE), member("m/1/model.onnx", content=b"weights" * 1000))


def test_a_good_archive(target: Path) -> None:
    run(GOOD, target)
    assert (target / "m" / "1" / "model.onnx").read_bytes() == b"weights" * 1000
    assert (target / "m" / "1" / "model.onnx").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["/etc/mesh", "../outside", "m/../../outside", "..", ".", "m/../x"])
def test_names_that_leave_the_folder(target: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"artifact memory://x\.tar is refused: entry .* leaves the folder"):
        run(tar_of(member(name, content=b"x")), target)
    assert list(target.parent.parent.iterdir()) == [target.parent]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "neither a file nor a folder"),
        (tarfile.BLKTYPE, "neither a file nor a folder"),
        (tarfile.FIFOTYPE, "neither a file nor a folder"),
        (tarfile.CONTTYPE, "neither a file nor a folder"),
    ],
)
def test_links_and_special_files(target: Path, kind: bytes, word: str) -> None:
    with pytest.raises(InvalidArgument, match=f"entry 'bad' is {word}"):
        run(tar_of(member("bad", kind, link="/etc")), target)
    assert list(target.iterdir()) == []


def test_a_link_cannot_redirect_what_follows(target: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="entry 'way' is a link"):
        run(tar_of(member("way", tarfile.SYMTYPE, link=str(tmp_path)), member("way/file", content=b"x")), target)
    assert not (tmp_path / "file").exists()


def test_names_that_come_twice(target: Path) -> None:
    with pytest.raises(InvalidArgument, match="entry 'a' comes twice"):
        run(tar_of(member("a", content=b"1"), member("a", content=b"2")), target)


def test_a_file_in_the_place_of_a_folder(target: Path) -> None:
    with pytest.raises(InvalidArgument, match="entry 'a/b'"):
        run(tar_of(member("a", content=b"1"), member("a/b", content=b"2")), target)


def test_truncated(target: Path) -> None:
    with pytest.raises(DataLoss, match=f"has 3000 bytes, its record says {len(GOOD)}"):
        run(GOOD[:3000], target, expected=GOOD)


def test_too_long(target: Path) -> None:
    with pytest.raises(DataLoss, match=f"has more than the {len(GOOD)} bytes"):
        run(GOOD + b"x", target, expected=GOOD)


def test_other_content_of_the_same_size(target: Path) -> None:
    changed = GOOD.replace(b"weights", b"weighty", 1)
    with pytest.raises(DataLoss, match=f"has digest {digest(changed)}, its record says {digest(GOOD)}"):
        run(changed, target, expected=GOOD)


def test_a_damaged_header_is_told_as_damage(target: Path) -> None:
    changed = b"\xff" + GOOD[1:]
    with pytest.raises(DataLoss, match="has digest"):
        run(changed, target, expected=GOOD)


def test_no_archive_at_all(target: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"artifact memory://x\.tar is not a tar archive"):
        run(b"hello" * 1000, target)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_goes_unseen_or_escapes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever bytes are changed: never an exception that is not the mesh's, never accepted under another's digest."""
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 1535))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("fuzz")
    if bytes(damaged) != GOOD:
        with pytest.raises(MeshError):
            run(bytes(damaged), folder, expected=GOOD)
    other = tmp_path_factory.mktemp("fuzz")
    with contextlib.suppress(MeshError):  # its own digest is right: refused for its content, or harmless
        run(bytes(damaged), other)
    assert all(path.is_file() or path.is_dir() for path in other.rglob("*"))
    assert not any(path.is_symlink() for path in other.rglob("*"))
