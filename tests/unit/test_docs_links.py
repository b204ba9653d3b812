"""The documents point to files that exist, and nothing names a folder of the machine it was written on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
FENCED = re.compile(r"^```.*?^```", flags=re.S | re.M)
# Put together, so that this file does not hold them itself.
FOREIGN = tuple("/" + folder for folder in ("home/", "work/", "root/", "Users/"))
FOREIGN_PATH = re.compile(rb"(?<![\w.}$~*/-])(?:" + b"|".join(path.encode() for path in FOREIGN) + rb")\w")


def relative_links(document: Path) -> Iterator[str]:
    for target in LINK.findall(FENCED.sub("", document.read_text())):
        if "://" not in target and not target.startswith(("mailto:", "#")):
            yield target


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.fail(f"git cannot list the files of {ROOT}: {listed.stderr}")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_point_to_files(document: Path) -> None:
    broken = [
        target for target in relative_links(document) if not (document.parent / target.partition("#")[0]).exists()
    ]
    assert not broken, f"{document} points to what is not there: {broken}"


def test_links_are_found() -> None:
    assert "docs/guides/cli.md" in set(relative_links(ROOT / "README.md"))


def test_there_is_a_changelog() -> None:
    assert (ROOT / "CHANGELOG.md").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("text", "foreign"),
    [("see {}me/x", True), ('"{}a"', True), ("={}a", True), ("tests/e2e{}a", False), ("${{x}}{}a", False)],
)
def test_foreign_paths_are_told_from_others(text: str, foreign: bool) -> None:
    for folder in FOREIGN:
        assert bool(FOREIGN_PATH.search(text.format(folder).encode())) is foreign


def test_no_file_names_a_folder_of_a_developers_machine() -> None:
    files = tracked_files()
    assert len(files) > 100
    found = []
    for path in files:
        if path.is_file():  # not what is removed and not committed yet
            for match in FOREIGN_PATH.finditer(path.read_bytes()):
                found.append(f"{path.relative_to(ROOT)}: {match.group().decode()}")
    assert not found, f"paths that exist on one machine only: {found}"
