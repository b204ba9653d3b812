"""YAML text → plain values, with the line of every field. Pure; answers everything that is wrong with `SpecError`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from serving.errors import SpecError
from serving.problems import Problem

MAX_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 50
_MAX_NODES: Final = 50_000  # aliases count each time they are used, so that a small text cannot become a huge value
_MERGE: Final = "tag:yaml.org,2002:merge"
_PLAIN: Final = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))


@dataclass(slots=True)
class Document:
    """The value of a YAML document; `lines` (from 1) and `raw` scalars by field path; `source` names the file."""

    value: Any
    source: str
    lines: dict[str, int] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)

    def line_of(self, path: str) -> int:
        """The line of a field, or of the nearest field around it that was written."""
        while path and path not in self.lines:
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return self.lines.get(path, 1)

    def error(self, problems: list[Problem]) -> SpecError:
        """One `SpecError` for all problems, each with its line, in the order of the lines."""
        found = sorted(problems, key=lambda problem: self.line_of(problem.field))
        first = found[0]
        if len(found) == 1:
            return SpecError(
                f"{first.field}: {first.message}",
                field=first.field,
                line=self.line_of(first.field),
                source=self.source,
                allowed=first.allowed,
                closest=first.closest,
            )
        listed = "".join(f"\n  {self.source}:{self.line_of(problem.field)}: {problem}" for problem in found)
        return SpecError(
            f"has {len(found)} problems:{listed}",
            field=first.field,
            line=self.line_of(first.field),
            source=self.source,
        )


def read_text(path: Path) -> str:
    """The text of a file; `SpecError` when it cannot be read, is not UTF-8 or is larger than 1 MiB."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", source=str(path)) from error
    if len(data) > MAX_BYTES:
        raise SpecError(f"is larger than {MAX_BYTES} bytes", source=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("is not UTF-8 text", source=str(path), line=line) from error


def parse_document(text: str, source: str) -> Document:
    """The one document of `text`. Raises `SpecError` for bad YAML, none or several documents, and keys that repeat."""
    if len(text) > MAX_BYTES:
        raise SpecError(f"is larger than {MAX_BYTES} letters", source=source)
    nodes = _compose(text, source)
    if not nodes:
        raise SpecError("is empty", source=source, line=1)
    if len(nodes) > 1:
        line = nodes[1].start_mark.line + 1
        raise SpecError(
            f"holds {len(nodes)} documents, one is expected; split the file at `---`", source=source, line=line
        )
    document = Document(None, source)
    builder = _Builder(document)
    document.value = builder.build(nodes[0], "", 0)
    if builder.problems:
        raise document.error(builder.problems)
    if document.value is None:
        raise SpecError("is empty", source=source, line=1)
    return document


def _compose(text: str, source: str) -> list[yaml.Node]:
    try:
        return [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"character {error.character!r} is not allowed", source=source, line=line) from error
    except yaml.MarkedYAMLError as error:
        raise _marked(error, text, source) from error
    except RecursionError as error:
        raise SpecError("is nested too deeply", source=source) from error


def _marked(error: yaml.MarkedYAMLError, text: str, source: str) -> SpecError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 0
    lines = text.splitlines()
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return SpecError("a tab stands in the indentation; YAML allows only spaces there", source=source, line=line)
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return SpecError(f"is not valid YAML: {what}", source=source, line=line)


class _Builder:
    """Turns nodes into dicts, lists and scalars and notes lines on the way."""

    def __init__(self, document: Document) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._scalars = yaml.constructor.SafeConstructor()
        self._left = _MAX_NODES

    def build(self, node: yaml.Node, path: str, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            line = node.start_mark.line + 1
            raise SpecError(
                "is nested too deeply or uses its aliases too often", source=self._document.source, line=line
            )
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for merged in reversed(list(self._merged(node, path))):
            made.update(self.build(merged, path, depth + 1))
        for key_node, value_node in self._own_entries(node, path):
            key = key_node.value
            child = f"{path}.{key}" if path else str(key)
            self._document.lines[child] = key_node.start_mark.line + 1
            made[key] = self.build(value_node, child, depth + 1)
        return made

    def _own_entries(self, node: yaml.MappingNode, path: str) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(path, line, "a key must be a text")
                continue
            if key_node.value in seen:
                child = f"{path}.{key_node.value}" if path else key_node.value
                self._problem(child, line, f"stands there twice, first in line {seen[key_node.value]}")
                continue
            seen[key_node.value] = line
            yield key_node, value_node

    def _merged(self, node: yaml.MappingNode, path: str) -> Iterator[yaml.MappingNode]:
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                continue
            sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for source in sources:
                if isinstance(source, yaml.MappingNode):
                    yield source
                else:
                    self._problem(path, key_node.start_mark.line + 1, "`<<` can take in mappings only")

    def _scalar(self, node: yaml.Node, path: str) -> Any:
        self._document.raw[path] = node.value
        if node.tag not in _PLAIN:
            return node.value  # dates and the like: what was written
        try:
            return self._scalars.construct_object(node)
        except (ValueError, yaml.YAMLError):
            self._problem(path, node.start_mark.line + 1, f"`{node.value[:40]}` does not fit its tag {node.tag}")
            return None

    def _problem(self, path: str, line: int, message: str) -> None:
        place = path or "the document"
        self._document.lines[place] = line
        self.problems.append(Problem(place, message))
