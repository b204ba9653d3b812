"""Libraries that are wrong are errors of the load, with words that say what to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cpp_deployment import harness
from tests.integration.cpp_deployment.conftest import Start
from tests.integration.cpp_deployment.harness import ask, floats, in_flight
from tests.support.waiting import eventually


def reason_of(start: Start, library: str, **options: Any) -> str:
    return start(library, state="failed", **options).wait_state("failed").reason


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("nowhere", ["libnowhere.so is not there", "libscale.so"]),
        ("no_factory", ["has no mesh_deployment_factory", "MESH_DEPLOYMENT(YourClass)"]),
        ("old_interface", ["version 99", "(mesh 9.9.9)", "speaks version 1", "mesh sdk-path"]),
        ("unresolved", ["FromNowhere", "target_link_libraries"]),
    ],
)
def test_a_library_that_does_not_fit_says_what_to_do(start: Start, library: str, words: list[str]) -> None:
    reason = reason_of(start, library)

    assert [word for word in words if word not in reason] == [], reason


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nothing", "Describe gives inputs, of which there must be at least one"),
        ("twice", "Describe gives input 'x' twice"),
        ("type", "input 'x' with the datatype 'FLOAT'"),
        ("shape", "input 'x' with a dimension of 0"),
    ],
)
def test_a_signature_that_is_wrong_is_named(start: Start, how: str, words: str) -> None:
    assert words in reason_of(start, "careless", args={"how": how})


def test_an_output_that_is_wrong_fails_its_request_only(start: Start) -> None:
    replica = start("careless", args={"how": "type of output"})
    with pytest.raises(Exception, match="output 'y' has the datatype 'FLOAT', which is none"):
        ask(replica.wait_state("ready").address, floats(1))
    assert replica.popen.poll() is None


def test_what_the_constructor_throws_is_the_reason(start: Start) -> None:
    assert reason_of(start, "scale", args={"fail": True}) == (
        "the constructor of the deployment failed: this one was told to fail"
    )


def test_arguments_of_another_type_are_named(start: Start) -> None:
    assert "args.factor must be a number" in reason_of(start, "scale", args={"factor": "three"})


def test_a_config_that_is_refused_keeps_it_from_being_ready(start: Start) -> None:
    assert reason_of(start, "scale", config={"offset": -1}) == "Reconfigure failed: an offset below 0"


def test_a_model_of_the_same_name_is_an_error(start: Start, repository: Path) -> None:
    assert "give it another `model`" in reason_of(start, "scale", repository=repository, model="echo")


def test_a_replica_is_ready_when_its_code_is_well(start: Start) -> None:
    replica = start("scale", args={"slow_to_be_well": True})

    assert "health check failed" in replica.log_text()
    assert replica.states() == ["loading", "ready"]


def test_code_that_is_ill_makes_the_replica_unhealthy(start: Start) -> None:
    replica = start("scale")
    address = replica.wait_state("ready").address
    ask(address, floats(1), "sick")
    report = replica.wait_state("unhealthy")

    assert report.reason == "Health() keeps failing: it was told to be sick"
    replica.terminate()
    assert replica.wait() == 0
    assert replica.states()[-2:] == ["draining", "drained"]


def test_a_drain_lets_running_requests_finish(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    replica = start("scale", args={"gate": str(gate)})
    report = replica.wait_state("ready")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask, report.address, floats(i), "gate") for i in range(4)]
        try:
            eventually(lambda: in_flight(report.metrics_address) == 4, timeout_s=60, what="they run or wait")
            replica.terminate()
            replica.wait_state("draining")
        finally:
            gate.touch()
        assert [future.result().as_numpy("y")[0] for future in running] == [0, 1, 2, 3]
    assert replica.wait() == 0


def test_a_crash_of_the_code_is_one_of_the_replica(start: Start) -> None:
    replica = start("scale")
    with pytest.raises(Exception, match=r"UNAVAILABLE|Socket closed|reset"):
        ask(replica.wait_state("ready").address, floats(1), "crash")
    assert replica.wait() == -6


def test_the_installed_package_is_found_from_elsewhere(libraries: Path) -> None:
    """`libraries` was built by a project of its own; it must not have looked into the source tree."""
    commands = (libraries / "CMakeCache.txt").read_text()
    assert str(harness.SDK) in commands
    assert str(harness.ROOT / "cpp_ext") not in commands
