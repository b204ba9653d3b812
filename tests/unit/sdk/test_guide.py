"""docs/guides/spec.md, with routing.md and traffic.md, names every field, and its example is a valid spec."""

from __future__ import annotations

import re
from pathlib import Path

from serving.sdk import parse_spec
from serving.sdk.schema import application_schema

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "guides" / "spec.md").read_text()
EXAMPLE = re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.S)[0]


def field_names(schema: object) -> set[str]:
    """Every property name anywhere in a JSON schema."""
    if isinstance(schema, dict):
        names = set(schema.get("properties", {}))
        return names.union(*(field_names(value) for value in schema.values()))
    if isinstance(schema, list):
        return set().union(*(field_names(value) for value in schema))
    return set()


def test_example_is_a_valid_spec(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    spec = parse_spec(EXAMPLE.replace("./models", str(tmp_path / "models"))).to_spec()
    assert spec.deployments[0].triton.max_message_bytes == 64 * 2**20
    assert spec.deployments[0].resources.cpus == 0.25
    assert spec.deployments[1].python.entry == "reader:Reader"
    assert spec.deployments[2].cpp.library == "librecommend.so"
    assert spec.deployments[3].llm.model == "tiny-chat"
    assert spec.deployments[4].embedding.model == "all-minilm"
    assert spec.deployments[5].semantic_cache.before == ["chat"]
    assert spec.deployments[6].broker.before == ["chat", "reader"]
    assert spec.deployments[7].serve.import_path == "readability:app"
    assert spec.deployments[8].proxy.hold_s == 30


def test_every_field_is_shown() -> None:
    others = (ROOT / "docs" / "guides" / name for name in ("routing.md", "traffic.md"))
    shown = GUIDE + "".join(guide.read_text() for guide in others)
    missing = {name for name in field_names(application_schema()) if not re.search(rf"\b{name}\b", shown)}
    assert missing <= {"size_bytes"}, missing
