"""`dispatch: pull` in specs: what it needs, and what it does not go with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving import Application, BrokerDeployment, LlmDeployment, PythonDeployment, Rollout
from serving._proto import records_pb2 as pb
from serving.broker.pulled import with_pulled
from serving.errors import SpecError
from serving.sdk import Artifact, Canary, CanaryStep, ServeDeployment, Shadow, TrafficSplit, parse_spec
from serving.sdk.spec import Deployment
from serving.validation import spec_problems

WEIGHTS = Artifact("file:///chat.tar", "sha256:" + "a" * 64)
CHAT = LlmDeployment("chat", WEIGHTS)
READER = PythonDeployment("reader", "reader:Reader", dispatch="pull")
QUEUE = BrokerDeployment("queue")


def spec(*deployments: Deployment, **changes: object) -> pb.ApplicationSpec:
    return replace(Application("app", deployments), **changes).to_spec()  # type: ignore[arg-type]


def test_yaml_and_python_say_the_same() -> None:
    text = """
name: app
deployments:
  - {name: reader, python: {entry: "reader:Reader"}, dispatch: pull}
  - {name: chat, llm: {weights: {uri: "file:///chat.tar", digest: "sha256:%s"}}, dispatch: push}
  - {name: queue, broker: {}}
"""
    assert parse_spec(text % ("a" * 64)).to_spec() == spec(READER, CHAT, QUEUE)
    made = spec(READER, CHAT, QUEUE)
    assert [one.dispatch for one in made.deployments] == ["pull", "", ""]


def test_its_broker_is_told_and_nobody_else() -> None:
    made = spec(READER, CHAT, QUEUE)
    broker = with_pulled(made.deployments[2], made).broker
    assert (list(broker.before), list(broker.pulled)) == (["reader", "chat"], ["reader"])
    pushed = spec(replace(READER, dispatch="push"), CHAT, QUEUE)
    assert list(with_pulled(pushed.deployments[2], pushed).broker.pulled) == []


@pytest.mark.parametrize(
    ("deployments", "said"),
    [
        ((READER,), "add `{name: queue, broker: {before: [reader]}}` to the deployments"),
        ((READER, CHAT, BrokerDeployment("queue", before=["chat"])), "no one takes requests for `reader`"),
        ((READER, ServeDeployment("ray", "module:app", dispatch="pull"), QUEUE), "not supported by a `serve`"),
        ((replace(READER, dispatch="later"), QUEUE), "`later` is not known (allowed: push, pull)"),
        (
            (replace(READER, rollout=Rollout(canary=Canary(steps=[CanaryStep(10, "1m")]))), QUEUE),
            "not supported with `rollout.canary`",
        ),
    ],
)
def test_what_it_needs_is_said(deployments: tuple[Deployment, ...], said: str) -> None:
    with pytest.raises(SpecError, match="dispatch") as error:
        spec(*deployments)
    assert said in str(error.value)


def test_requests_of_brokers_are_not_copied() -> None:
    other = replace(READER, name="other", dispatch="push")
    shadow = TrafficSplit(split={"reader": 1}, shadow=Shadow("other", 10))
    with pytest.raises(SpecError, match="shadow"):
        spec(READER, other, QUEUE, traffic=(shadow,))


def test_nobody_tells_a_broker_in_a_spec() -> None:
    made = spec(READER, QUEUE)
    made.deployments[1].broker.pulled.append("reader")
    assert [problem.field for problem in spec_problems(made)] == ["deployments[1].broker.pulled"]
