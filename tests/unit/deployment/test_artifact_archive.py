"""Archives of folders: equal folders give equal digests, and what cannot be carried is refused by name."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.deployment import artifact_archive, artifact_store
from serving.deployment.artifact_archive import digest_of, list_entries, pack
from serving.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make(tmp_path / "models", {"m/config.pbtxt": b"config", "m/1/model.onnx": b"x" * 100_000, "n/1/a": b""})


def stored(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir())


def test_the_archive_lies_under_its_digest(models: Path, tmp_path: Path) -> None:
    artifact = pack(models, str(tmp_path / "store"))
    name = artifact.digest.removeprefix("sha256:")
    assert artifact.uri == f"file://{tmp_path}/store/{name}.tar"
    assert stored(tmp_path / "store") == [f"{name}.tar"]
    assert (tmp_path / "store" / f"{name}.tar").stat().st_size == artifact.size_bytes
    with tarfile.open(tmp_path / "store" / f"{name}.tar") as archive:
        assert archive.getnames() == ["m", "m/1", "m/1/model.onnx", "m/config.pbtxt", "n", "n/1", "n/1/a"]
        assert {(info.mtime, info.uid, info.uname) for info in archive} == {(0, 0, "")}
    assert digest_of(models) == artifact.digest


def test_times_owners_and_order_of_creation_do_not_count(models: Path, tmp_path: Path) -> None:
    twin = make(tmp_path / "twin", {"n/1/a": b"", "m/1/model.onnx": b"x" * 100_000, "m/config.pbtxt": b"config"})
    os.utime(twin / "m" / "config.pbtxt", (1, 1))
    (twin / "m" / "config.pbtxt").chmod(0o600)
    (twin / "m").chmod(0o700)
    assert digest_of(twin) == digest_of(models)


def test_content_names_execute_bits_and_empty_folders_count(models: Path) -> None:
    digests = {digest_of(models)}
    (models / "m" / "config.pbtxt").write_bytes(b"confih")
    digests.add(digest_of(models))
    (models / "m" / "config.pbtxt").chmod(0o755)
    digests.add(digest_of(models))
    (models / "m" / "2").mkdir()
    digests.add(digest_of(models))
    (models / "m" / "2").rename(models / "m" / "3")
    digests.add(digest_of(models))
    assert len(digests) == 5


def test_what_is_stored_is_not_written_again(models: Path, tmp_path: Path) -> None:
    path = Path(pack(models, str(tmp_path / "store")).uri.removeprefix("file://"))
    before = path.stat()
    pack(models, f"file://{tmp_path}/store/")
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


def test_caches_of_python_and_git_are_left_out(models: Path) -> None:
    before = digest_of(models)
    make(models, {"m/1/__pycache__/model.cpython-311.pyc": b"x", ".git/HEAD": b"y", ".DS_Store": b"z"})
    assert digest_of(models) == before


def test_links_inside_the_folder_carry_their_content(models: Path) -> None:
    (models / "m" / "2").symlink_to("1")
    (models / "copy").symlink_to(models / "m" / "config.pbtxt")
    twin = {entry.name: entry.size for entry in list_entries(models)}
    assert twin["m/2/model.onnx"] == 100_000
    assert twin["copy"] == 6


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/etc/passwd", "is a link that leaves the folder (to /etc/passwd); copy the file to m/link"),
        ("../../elsewhere", "is a link that leaves the folder"),
        ("nothing", "is a link to nothing (nothing)"),
        ("link", "is a link to nothing"),
        (".", "is a link to a folder around itself"),
        ("..", "is a link to a folder around itself"),
    ],
)
def test_links_that_cannot_be_carried(models: Path, target: str, reason: str) -> None:
    make(models.parent, {"elsewhere/file": b"secret"})
    (models / "m" / "link").symlink_to(target)
    with pytest.raises(InvalidArgument) as caught:
        digest_of(models)
    assert str(models / "m" / "link") in caught.value.message
    assert reason in caught.value.message


def test_special_files_are_refused(models: Path) -> None:
    os.mkfifo(models / "m" / "pipe")
    with pytest.raises(InvalidArgument, match="pipe is not a file, a folder or a link"):
        digest_of(models)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        digest_of(tmp_path / "absent")
    make(tmp_path, {"file": b""})
    with pytest.raises(InvalidArgument, match="is not a folder"):
        digest_of(tmp_path / "file")
    (tmp_path / "empty" / "m" / "1").mkdir(parents=True)
    with pytest.raises(InvalidArgument, match="holds no files"):
        digest_of(tmp_path / "empty")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path / "m"))
    (Path(os.fsdecode(os.fsencode(tmp_path / "m") + b"/\xff"))).write_bytes(b"")
    with pytest.raises(InvalidArgument, match="is not UTF-8"):
        digest_of(tmp_path)


def test_a_folder_that_changes_while_it_is_packed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = artifact_store.exists

    def change(url: str) -> bool:
        (models / "m" / "config.pbtxt").write_bytes(b"CONFIG")
        return real(url)

    monkeypatch.setattr(artifact_archive.artifact_store, "exists", change)
    with pytest.raises(FailedPrecondition, match="changed while it was packed"):
        pack(models, str(tmp_path / "store"))
    assert stored(tmp_path / "store") == [], "nothing under the digest, no partial file"


def test_a_file_that_shrinks_while_it_is_packed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = list_entries(models)
    (models / "m" / "1" / "model.onnx").write_bytes(b"short")
    monkeypatch.setattr(artifact_archive, "list_entries", lambda _: entries)
    with pytest.raises(FailedPrecondition, match=r"model\.onnx cannot be packed"):
        digest_of(models)


def test_stores_that_do_not_work(models: Path, tmp_path: Path) -> None:
    make(tmp_path, {"file": b""})
    with pytest.raises(Unavailable, match="cannot be reached"):
        pack(models, str(tmp_path / "file"))
    with pytest.raises(InvalidArgument, match="nosuchscheme"):
        pack(models, "nosuchscheme://bucket")
    with pytest.raises(InvalidArgument, match="URL is empty"):
        pack(models, " ")


def test_stores_of_fsspec(models: Path) -> None:
    artifact = pack(models, "memory://archives/of/tests")
    assert artifact.uri.startswith("memory://archives/of/tests/")
    with artifact_store.reading(artifact.uri) as stream:
        assert len(stream.read()) == artifact.size_bytes
    with pytest.raises(NotFound, match="does not exist"), artifact_store.reading("memory://absent"):
        pass


_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)
_folders = st.dictionaries(
    _names.filter(lambda name: name not in {".", "..", *artifact_archive.IGNORED_NAMES}),
    st.binary(max_size=700),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(_folders)
def test_any_folder_packs_and_unpacks_to_itself(files: dict[str, bytes]) -> None:
    from serving.deployment.artifact_unpack import unpack

    with tempfile.TemporaryDirectory() as temporary:
        source = make(Path(temporary) / "in", {f"deep/{name}": content for name, content in files.items()})
        artifact = pack(source, f"{temporary}/store")
        target = Path(temporary) / "out"
        target.mkdir()
        with artifact_store.reading(artifact.uri) as stream:
            unpack(stream, target, name="a", digest=artifact.digest, size_bytes=artifact.size_bytes)
        assert {path.name: path.read_bytes() for path in (target / "deep").iterdir()} == files
        assert digest_of(target) == artifact.digest
