"""The OpenAPI documents of gateway and replica, and whether both do what these say: asked by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.integration.openai_clients.conftest import Served
from tests.support.broker_serving import BrokerProcess, broker_config
from tests.support.llm_serving import CacheProcess, cache_config
from tests.support.waiting import eventually

load_all_checks()
NEEDED = {"model", "messages", "prompt", "input", "tokens", "max_tokens", "max_output_tokens"}
BOUNDED = {
    f"{prefix}/{path}": field
    for prefix in ("/v1", "/v1/async")
    for path, field in (
        ("chat/completions", "max_tokens"),
        ("completions", "max_tokens"),
        ("responses", "max_output_tokens"),
    )
}
GOOD = {200, 202}
OF_OTHER_MODELS = ("/v1/embeddings", "/v1/async/embeddings", "/v1/async/v2/models/{model}/infer")


@dataclass(frozen=True)
class There:
    """What there is: a model, a request at its broker, a response in the background, a batch that has ended and the
    file that it read; their ids. `gateway` is the URL of who has them.
    """

    model: str
    queued: str = ""
    response: str = ""
    read: str = ""
    batch: str = ""
    gateway: str = ""

    def path_parameters(self, path: str, method: str) -> dict[str, str]:
        file = path.startswith("/v1/files/") and (made_file(self.gateway) if method == "delete" else self.read)
        named = {"/v1/responses/": self.response, "/v1/files/": str(file), "/v1/batches/": self.batch}
        own = next((made for prefix, made in named.items() if path.startswith(prefix)), self.queued)
        return {"model": self.model, "id": own}


def ask(case: Case, there: There) -> int:
    """Of the model that is there, for few tokens: else all answers would be that there is none. The status.

    That fields contradict each other, or that the engine cannot do what they ask for, no schema can say: so what it
    allows may be refused with 400.
    """
    if isinstance(case.body, dict):
        if isinstance(case.body.get("model"), str) and case.body["model"]:
            case.body["model"] = there.model
        if case.body.get("prompt") == "":
            case.body["prompt"] = "a"  # at least one token: what no schema can say, as it is not one character
        limit = BOUNDED.get(case.path)
        asked = case.body.get(limit) if limit else 0
        if asked is None or (isinstance(asked, int) and asked > 2):
            case.body[limit] = 2
    if isinstance(case.path_parameters, dict) and case.path_parameters:
        known = there.path_parameters(case.path, case.method.lower())
        case.path_parameters.update({name: known[name] for name in case.path_parameters})
    if case.path == "/v1/batches" and isinstance(case.body, dict) and isinstance(case.body.get("input_file_id"), str):
        case.body["input_file_id"] = there.read
    if isinstance(case.query, dict) and "after" in case.query:
        case.query.pop("after")  # what was made up is not there
    case.headers.pop("x-request-timeout", None)
    if isinstance(case.query, dict):
        case.query.pop("model", None)  # of stored answers: the model that is there has no cache before it
    return case.call_and_validate(timeout=60, excluded_checks=[CHECKS.get_one("positive_data_acceptance")]).status_code


@pytest.fixture(scope="module")
def cache(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheProcess]:
    """Of another application, so that answers of the model are always its own."""
    folder = tmp_path_factory.mktemp("cache")
    running = CacheProcess(folder, cache_config(folder, etcd=served.etcd.config(), application="elsewhere"))
    try:
        running.wait_state("ready", registered=True)
        url = f"{served.gateway.url}/v1/cache"
        eventually(lambda: httpx.delete(url).status_code == 200, timeout_s=30, what="the gateway knows it")
        yield running
    finally:
        running.end()


@pytest.fixture(scope="module")
def there(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    """With a broker for the model, which keeps a request and a response that have ended."""
    folder = tmp_path_factory.mktemp("queue")
    running = BrokerProcess(folder, broker_config(folder, served.etcd.config(), application="chat", before=["chat"]))
    try:
        running.wait_state("ready", registered=True)
        bodies: tuple[tuple[str, dict[str, Any]], ...] = (
            ("/v1/async/completions", {"prompt": "a", "max_tokens": 1}),
            ("/v1/responses", {"input": "a", "max_output_tokens": 1, "background": True}),
        )
        made: list[str] = []
        for path, body in bodies:

            def name(path: str = path, body: Any = body) -> str:
                answer = httpx.post(f"{served.gateway.url}{path}", json=body | {"model": served.model})
                return str(answer.json().get("id", ""))

            made.append(eventually(lambda name=name: name(), timeout_s=30, what="the gateway knows the broker"))
        url = f"{served.gateway.url}/v1/async/{made[1].removeprefix('resp_')}"
        for one in (f"{served.gateway.url}/v1/async/{made[0]}", url):
            eventually(lambda one=one: httpx.get(one).json()["status"] == "succeeded", timeout_s=60, what=one)
        yield replace(files_and_batch(served.gateway.url), model=served.model, queued=made[0], response=made[1])
    finally:
        running.end()


def files_and_batch(url: str) -> There:
    """The batch has ended, so that its file is read by nobody any more."""

    read = made_file(url)
    wish = {"input_file_id": read, "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = httpx.post(f"{url}/v1/batches", json=wish).json()["id"]
    assert httpx.post(f"{url}/v1/batches/{batch}/cancel").json()["status"] == "cancelled"
    return There("", read=read, batch=batch, gateway=url)


def made_file(url: str) -> str:
    form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", b"{}")}}
    return str(httpx.post(f"{url}/v1/files", **form).json()["id"])  # type: ignore[arg-type]


def check(base: str, there: There, mode: GenerationMode, examples: int) -> None:
    """Positive: what the document allows is taken, where it can be done at all. Negative: nothing else is."""
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 9
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and (operation.method == "get" or "{id}" in operation.path):
            continue
        cases = operation.as_strategy(generation_mode=mode)
        seen = checked(cases, there, mode, examples)
        if mode is GenerationMode.NEGATIVE or operation.path in OF_OTHER_MODELS:
            continue
        if not GOOD & seen:  # all of these few contradicted themselves
            seen |= checked(cases, there, mode, 10 * examples)
        assert GOOD & seen, f"{operation.path}: only {seen}"


def checked(cases: SearchStrategy[Case], there: There, mode: GenerationMode, examples: int) -> set[int]:
    """The statuses of that many."""
    seen: set[int] = set()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: Case) -> None:
        seen.add(ask(case, there))
        form = case.path == "/v1/files"  # whose file is taken for a violation when it is set again
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and not form:
            first = [name for name in case.body if name in NEEDED] + list(case.body)[:2]
            case.body = {name: case.body[name] for name in first}  # fewer fields contradict each other less
            seen.add(ask(case, there))

    run()
    return seen


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_both_do_what_their_documents_say(base: str, there: There, mode: GenerationMode) -> None:
    check(base, there, mode, 6)


@pytest.mark.long
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_both_do_what_their_documents_say_for_long(base: str, there: There, mode: GenerationMode) -> None:
    check(base, there, mode, 150)


def test_the_page_needs_nothing_from_elsewhere(base: str) -> None:
    page = httpx.get(f"{base}/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for path in httpx.get(f"{base}/openapi.json").json()["paths"]:
        assert path in page.text
    for outside in ("http://", "https://", "<script", "<link", "<img"):
        assert outside not in page.text
