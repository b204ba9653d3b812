"""What is read from, and told to, clients of queued requests: ids, headers, queries, objects, events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.errors import NotFound
from serving.gateway.catalog import ModelKey, Offer
from serving.gateway.queued.following import EventId, events, read_event_id
from serving.gateway.queued.ids import QueuedId, UnknownRequest, read_queued_id, read_response_id
from serving.gateway.queued.journals import FullQueue
from serving.gateway.queued.objects import NoResult, has_ended, new_item, own_labels, queued_request
from serving.gateway.queued.options import ItemOptions, read_options
from serving.gateway.queued.query import fields, flag, number, wait_s
from serving.gateway.queued.response_object import attempt_of, event_of, response_of
from serving.gateway.queued.results import answer_of
from serving.gateway.queued.targets import QueueTargets
from serving.gateway.splits import Chosen
from serving.openai.errors import InvalidRequest, retry_after_s
from serving.sdk.broker_errors import QueueFull
from serving.sdk.parts import Place, TicketPart
from serving.store.keys import AppKey

SECRET = "A" * 22
NAME = QueuedId(AppKey("team", "app"), f"j-1.7.{SECRET}")
KEY = ModelKey("team", "app", "m")


def item(state: bpb.State = bpb.SUCCEEDED, **more: Any) -> bpb.Item:
    return bpb.Item(id="j-1.7", state=state, deployment="d", attempts=3, attempt=3, **more)


def http(body: bytes, status: int = 200, kind: str = "application/json") -> bpb.Result:
    return bpb.Result(http=bpb.HttpAnswer(status=status, content_type=kind, body=body))


def test_ids_are_texts_of_one_segment() -> None:
    assert str(NAME) == f"team.app.j-1.7.{SECRET}"
    assert NAME.sdk_text == f"team/app/j-1.7.{SECRET}"
    assert read_queued_id(str(NAME)) == NAME
    assert read_response_id(NAME.response) == NAME
    assert NAME.journal == "j-1"
    for wrong in (
        "",
        "x",
        "team.app.j-1.7",
        f"te am.app.j.7.{SECRET}",
        f"team.app.j.x.{SECRET}",
        f"{NAME}.",
        "\0" * 500,
    ):
        with pytest.raises(UnknownRequest) as error:
            read_queued_id(wrong)
        assert len(error.value.message) < 250
    with pytest.raises(NotFound):
        read_response_id(str(NAME))


def test_options_of_headers() -> None:
    assert read_options(lambda _: "") == ItemOptions()
    said = {
        "idempotency-key": "k-1",
        "x-mesh-priority": "low",
        "x-mesh-deadline-s": "30",
        "x-mesh-expected-s": "0.5",
        "x-mesh-result-ttl-s": "7200",
        "x-mesh-labels": "a=b, c = d=e,",
        "x-mesh-callback-url": "https://a.example/x",
        "x-mesh-callback-states": "dead, failed",
    }
    callback = bpb.Callback(url="https://a.example/x", states=[bpb.DEAD, bpb.FAILED])
    found = read_options(lambda name: said.get(name.decode(), ""))
    assert found == ItemOptions("k-1", bpb.LOW, 30.0, 0.5, 7200.0, {"a": "b", "c": "d=e"}, callback)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idempotency-key", "x" * 257),
        ("idempotency-key", "a b"),
        ("x-mesh-priority", "HIGH"),
        ("x-mesh-deadline-s", "0"),
        ("x-mesh-deadline-s", "inf"),
        ("x-mesh-expected-s", "-1"),
        ("x-mesh-result-ttl-s", "99999999"),
        ("x-mesh-callback-states", "running"),
        ("x-mesh-labels", "a"),
        ("x-mesh-labels", "=a"),
        ("x-mesh-labels", "a=1,a=2"),
        ("x-mesh-labels", "mesh-path=x"),
        ("x-mesh-labels", f"a={'x' * 65}"),
        ("x-mesh-labels", ",".join(f"a{index}=b" for index in range(15))),
    ],
)
def test_wrong_headers_are_named(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_options(lambda asked: value if asked == name.encode() else "")
    assert error.value.param == name
    assert len(error.value.message) < 250


def test_queries() -> None:
    def query(text: str) -> dict[str, str]:
        return fields({"query_string": text.encode()}, ("wait", "stream", "starting_after"))

    assert (wait_s(query("")), wait_s(query("wait=0.5")), wait_s(query("wait=60"))) == (0.0, 0.5, 60.0)
    assert (flag(query("stream=true"), "stream"), flag(query(""), "stream")) == (True, False)
    assert (number(query("starting_after=7"), "starting_after"), number(query(""), "starting_after")) == (7, None)
    for wrong in ("other=1", "wait=1&wait=1"):
        with pytest.raises(InvalidRequest):
            query(wrong)
    for wrong in ("wait=61", "wait=", "wait=-1", "wait=1e1", "wait=nan"):
        with pytest.raises(InvalidRequest):
            wait_s(query(wrong))
    with pytest.raises(InvalidRequest):
        flag(query("stream=1"), "stream")
    with pytest.raises(InvalidRequest):
        number(query("starting_after=-1"), "starting_after")


def test_a_request_and_its_object() -> None:
    labels = {"a": "b", **own_labels(KEY, "/v1/completions")}
    submitted = bpb.SubmitRequest(deployment="d", priority=bpb.HIGH, deadline_s=60, labels=labels)
    told = queued_request(NAME, new_item(NAME.ticket, submitted))
    assert told["deadline_at"] is not None
    assert told["deadline_at"] - told["created_at"] in (59, 60, 61)
    assert (told["status"], told["model"], told["labels"], told["priority"]) == ("queued", "m", {"a": "b"}, "high")
    assert told["links"]["events"] == f"/v1/async/{NAME}/events"
    assert own_labels(ModelKey("n", "a", "x" * 65), "/p") == {"mesh-path": "/p"}
    assert queued_request(NAME, item(bpb.RUNNING))["model"] == "d", "of one that was submitted elsewhere"


def test_what_is_told_of_failures() -> None:
    own = {"message": "m", "type": "invalid_request_error", "param": "p", "code": None}
    failed = item(bpb.FAILED, result=http(json.dumps({"error": own}).encode(), 400))
    assert queued_request(NAME, failed)["error"] == own
    broken = queued_request(NAME, item(bpb.FAILED, result=http(b"<html>", 502)))["error"]
    assert broken is not None
    assert broken["message"] == "answered with 502: <html>"
    grpc = item(bpb.FAILED, result=bpb.Result(failure=bpb.Failure(code=3, message="no")))
    error = queued_request(NAME, grpc)["error"]
    assert error is not None
    assert (error["message"], error["type"]) == ("no", "invalid_request_error")
    for state, code in ((bpb.DEAD, "dead"), (bpb.CANCELLED, "cancelled"), (bpb.EXPIRED, "expired")):
        assert has_ended(item(state))
        with pytest.raises(NoResult) as refused:
            answer_of(item(state, reason="why"), binary=False)
        assert (refused.value.http_status, refused.value.error_code) == (409, code)
        assert "why" in refused.value.message
        assert retry_after_s(refused.value) is None


def test_a_full_queue_says_when() -> None:
    assert retry_after_s(FullQueue(QueueFull("full", 0.2))) == 1
    assert retry_after_s(FullQueue(QueueFull("full", 2.1))) == 3
    assert retry_after_s(FullQueue(QueueFull("too large", 0.0))) is None


def test_events_have_places_from_which_one_can_go_on() -> None:
    first = TicketPart(0, 1, b'data: {"a":1}\n\ndata: {"a":2}\n\n', 0)
    last = TicketPart(1, 1, b': mesh-usage {}\n\ndata: {"a":3}\n\ndata: [DONE]\n\n', len(first.data))
    found = [*events(first, 0, tensors=False), *events(last, 0, tensors=False)]
    assert [json.loads(data)["a"] for _, data in found] == [1, 2, 3]
    assert [str(name) for name, _ in found] == [
        "1.0.0.1",
        f"1.1.{last.offset}.0",
        f"1.2.{last.offset + len(last.data)}.0",
    ]
    assert [data for _, data in events(first, 1, tensors=False)] == [b'{"a":2}']
    assert read_event_id("1.0.0.1") == EventId(Place(1, 0, 0), 1)
    assert read_event_id("") is None
    for wrong in ("1", "1.2.3", "1.2.3.4.5", "a.b.c.d", "1.2.3.-4", "1" * 40):
        with pytest.raises(InvalidRequest):
            read_event_id(wrong)


def test_an_answer_in_one_is_one_event() -> None:
    part = TicketPart(0, 1, b'{"a":\n 1}', 0)
    assert [(str(name), json.loads(data)) for name, data in events(part, 0, tensors=False)] == [("1.1.9.0", {"a": 1})]


def test_background_responses_and_the_numbers_of_their_events() -> None:
    assert response_of(NAME, item(bpb.QUEUED))["status"] == "queued"
    assert response_of(NAME, item(bpb.RUNNING))["status"] == "in_progress"
    assert response_of(NAME, item(bpb.CANCELLED))["status"] == "cancelled"
    dead = response_of(NAME, item(bpb.DEAD, reason="thrice"))
    assert dead["status"] == "failed"
    assert dead["error"] is not None
    assert "thrice" in dead["error"]["message"]
    done = b'event: x\ndata: {"type":"x","response":{"id":"resp_9","status":"completed","store":false}}\n\n'
    found: Any = response_of(NAME, item(result=http(b'data: {"type":"a"}\n\n' + done, kind="text/event-stream")))
    assert found == {"id": NAME.response, "status": "completed", "background": True, "store": True}
    assert event_of(NAME, b'{"type":"response.created","sequence_number":0}', 1) is None
    numbers = [event_of(NAME, b'{"type":"x","sequence_number":%d}' % own, 2) for own in (1, 2)]
    assert [event["sequence_number"] for event in numbers if event] == [1_000_002, 1_000_003]
    assert [attempt_of(one) for one in (0, 1, 2, 3, 1_000_002, 1_000_003)] == [None, None, None, 1, None, 2]


class _Follower:
    def listen(self, listener: Any) -> None:
        self.tell = listener


def endpoint(role: str, protocol: str, deployment: str, **more: Any) -> pb.Endpoint:
    return pb.Endpoint(
        id=f"{deployment}-0", role=role, protocol=protocol, deployment=deployment, state="ready",
        **{"namespace": "team", "application": "app", **more},
    )  # fmt: skip


def test_who_can_be_asked_through_a_broker() -> None:
    follower: Any = _Follower()
    targets = QueueTargets(follower, ("team",))
    chat = endpoint("direct", "openai-http", "chat", models=[pb.ModelRecord(name="m")])
    code = endpoint("direct", "kserve-grpc", "code", models=[pb.ModelRecord(name="c")])
    queue = endpoint("broker", "broker-grpc", "queue", before=["chat", "asleep"])
    follower.tell([chat, code, queue])
    names = {kind: [offer.name for offer in targets.catalog(openai=kind).offers()] for kind in (True, False)}
    assert names == {True: ["asleep", "m"], False: ["asleep", "c"]}, "one without a replica has its deployment's name"
    chosen = Chosen(KEY)
    assert targets.deployment(targets.catalog(openai=True).find("m"), chosen, "") == "chat"
    with pytest.raises(InvalidRequest, match=r"before: \[code\]"):
        targets.deployment(targets.catalog(openai=False).find("c"), chosen, "")
    follower.tell([chat, code])
    assert targets.deployment(targets.catalog(openai=True).find("m"), chosen, "") == "chat", "it may restart"
    assert targets.knows(AppKey("team", "app"))
    assert not targets.knows(AppKey("team", "other"))
    assert [targets.serves(AppKey(name, "app")) for name in ("team", "other")] == [True, False]
    own = QueueTargets(follower, ("team",), {AppKey("team", "app")})
    assert [own.serves(AppKey("team", name)) for name in ("app", "other")] == [True, False]


def test_equal_keys_go_to_one_of_several_deployments() -> None:
    follower: Any = _Follower()
    targets = QueueTargets(follower, ())
    follower.tell([endpoint("broker", "broker-grpc", "queue", before=["a", "b"])])
    offer = Offer(KEY, "m", tuple(endpoint("direct", "openai-http", name) for name in ("a", "b")))
    chosen = {key: {targets.deployment(offer, Chosen(KEY), key) for _ in range(20)} for key in map(str, range(20))}
    assert all(len(found) == 1 for found in chosen.values())
    assert set().union(*chosen.values()) == {"a", "b"}


def test_who_gets_requests_through_a_broker() -> None:
    follower: Any = _Follower()
    targets = QueueTargets(follower, ())
    app = AppKey("team", "app")
    code = endpoint("direct", "kserve-grpc", "code", models=[pb.ModelRecord(name="m")])
    other = endpoint("direct", "kserve-grpc", "other", models=[pb.ModelRecord(name="o")])
    queue = endpoint("broker", "broker-grpc", "queue", before=["code", "asleep"], pulled=["code", "asleep"], revision=1)
    follower.tell([code, other, queue])
    catalog = targets.catalog(openai=False)
    found = {name: targets.pulled(catalog.find(name), Chosen(KEY)) for name in ("m", "o", "asleep")}
    assert found == {"m": "code", "o": "", "asleep": "asleep"}
    assert [targets.offers_pulled(catalog.find(name).key) for name in ("m", "o", "asleep")] == [True, False, True]
    after = endpoint("broker", "broker-grpc", "queue", before=["code"], revision=2)
    for brokers, pulls in (
        ([queue, after], False),  # the newest of a deployment says it
        ([after], False),
        ([queue], True),
        ([changed(queue, drained=True)], False),
        ([changed(queue, state="draining")], False),
        ([], False),  # requests do not wait for a broker that is not there
    ):
        follower.tell([code, *brokers])
        assert targets.pulls(app) is pulls


def changed(record: pb.Endpoint, **fields: Any) -> pb.Endpoint:
    made = pb.Endpoint(**fields)
    copy = pb.Endpoint.FromString(record.SerializeToString())
    copy.MergeFrom(made)
    return copy
