"""An endpoint stays in discovery whatever happens to etcd, and leaves it when asked to."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from serving.config import TlsConfig
from serving.local.etcd import EtcdCluster, EtcdOptions
from tests.integration.registry.conftest import StartRegistrar
from tests.integration.registry.probes import KEY, RegistrarProbe, Registration, endpoint_value, registrar_config
from tests.integration.replica.replica_harness import Store
from tests.support.certificates import Authority
from tests.support.etcd_server import StartEtcd
from tests.support.waiting import eventually

WAIT_S = 60.0
TRIES = 3  # a machine that stops for seconds takes any short lease, but not each time


def wait_registered(probe: RegistrarProbe, *, other_than: int = 0) -> Registration:
    """Its registration, with a lease other than the given one."""

    def look() -> Registration | None:
        status = probe.status()
        return status if status.registered and status.lease != other_than else None

    found = eventually(look, timeout_s=WAIT_S, what=f"registered; {probe.log}")
    if found is None:
        raise AssertionError("unreachable")
    return found


def wait_key(store: Store, probe: RegistrarProbe, *, other_than: int = 0) -> None:
    """Until the key is bound to the probe's lease, which is another one whenever the machine stopped for too long."""

    def look() -> bool:
        found, status = store.get(KEY), probe.status()
        return found is not None and status.registered and found.lease == status.lease != other_than

    eventually(look, timeout_s=WAIT_S, what=f"the key with the lease; {probe.log}")


def wait_status(probe: RegistrarProbe, wanted: Registration) -> None:
    """It may learn a moment after others that what it asked for was done."""
    eventually(lambda: probe.status() == wanted, timeout_s=WAIT_S, what=f"{wanted}; {probe.log}")


def wait_lost(probe: RegistrarProbe) -> Registration:
    """Its first word after it has lost the registration."""

    def look() -> Registration | None:
        status = probe.status()
        return None if status.registered else status

    found = eventually(look, timeout_s=WAIT_S, what=f"lost; {probe.log}")
    if found is None:
        raise AssertionError("unreachable")
    return found


def wait_value(store: Store, value: str, key: str = KEY) -> None:
    """Until the key holds that text."""

    def look() -> bool:
        found = store.get(key)
        return found is not None and found.value.decode() == value

    eventually(look, timeout_s=WAIT_S, what=f"{key} = {value}")


def wait_absent(store: Store, key: str = KEY) -> None:
    eventually(lambda: store.get(key) is None, timeout_s=WAIT_S, what=f"the end of {key}")


def wait_problem(probe: RegistrarProbe, said: str) -> None:
    eventually(lambda: said in probe.status().problem, timeout_s=WAIT_S, what=f"a problem with {said!r}; {probe.log}")


def test_registers_updates_and_withdraws(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    probe = start_registrar(registrar_config(server.config()))
    wait_key(store, probe)
    draining = endpoint_value(state="draining")
    probe.update(draining)
    wait_value(store, draining)
    assert probe.withdraw() == Registration(0, False, "")
    assert store.get(KEY) is None
    assert probe.end() == 0


def test_the_lease_is_renewed(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    probe = start_registrar(registrar_config(server.config(), ttl_s=6))
    kept: list[bool] = []
    while len(kept) < TRIES and not any(kept):
        lease = wait_registered(probe).lease
        lost = probe.log.read_text().count("lease lost")
        # Another lease of the same length that nobody renews shows that more than the time to live has passed.
        other = start_registrar(registrar_config(server.config(), ttl_s=6, key="/mesh/unrenewed"))
        wait_registered(other)
        other.kill()
        wait_absent(store, "/mesh/unrenewed")
        kept.append(probe.status() == Registration(lease, True, ""))
        assert not kept[-1] or probe.log.read_text().count("lease lost") == lost
    assert any(kept)


def test_a_killed_process_leaves_discovery(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    probe = start_registrar(registrar_config(server.config()))
    wait_registered(probe)
    probe.kill()
    wait_absent(store)


def test_etcd_killed_and_started_again(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    probe = start_registrar(registrar_config(server.config()))
    wait_registered(probe)
    server.kill()
    assert "etcd" in wait_lost(probe).problem
    server.start()
    wait_key(Store(server.config()), probe)


def test_etcd_paused_longer_than_the_lease(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    probe = start_registrar(registrar_config(server.config(), ttl_s=1))
    wait_registered(probe)
    server.members[0].pause()
    try:
        wait_lost(probe)
    finally:
        server.members[0].resume()
    wait_key(Store(server.config()), probe)


def test_etcd_comes_back_empty(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    probe = start_registrar(registrar_config(server.config()))
    first = wait_registered(probe).lease
    server.kill()
    server.wipe()
    server.start()
    wait_key(Store(server.config()), probe, other_than=first)


def test_the_lease_revoked_by_somebody(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    probe = start_registrar(registrar_config(server.config()))
    first = wait_registered(probe).lease
    store.revoke(first)
    wait_key(store, probe, other_than=first)


def test_the_key_deleted_by_somebody(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    probe = start_registrar(registrar_config(server.config()))
    wait_key(store, probe)
    store.delete(KEY)
    wait_key(store, probe)


def test_the_process_stopped_longer_than_its_lease(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    probe = start_registrar(registrar_config(server.config(), ttl_s=1))
    first = wait_registered(probe).lease
    probe.popen.send_signal(signal.SIGSTOP)
    try:
        wait_absent(store)
    finally:
        probe.popen.send_signal(signal.SIGCONT)
    wait_key(store, probe, other_than=first)


def test_etcd_away_at_the_start(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    server.stop()
    probe = start_registrar(registrar_config(server.config()))
    wait_problem(probe, "refused")
    server.start()
    wait_registered(probe)


def test_withdrawing_with_etcd_away_is_bounded(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    probe = start_registrar(registrar_config(server.config()))
    wait_registered(probe)
    server.members[0].pause()
    try:
        assert probe.withdraw().registered is False
        assert probe.end() == 0
    finally:
        server.members[0].resume()


def test_a_newer_generation_is_not_overwritten(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    newer = start_registrar(registrar_config(server.config(), value=endpoint_value(2, pid="2"), ttl_s=30))
    wait_registered(newer)
    older = start_registrar(registrar_config(server.config(), value=endpoint_value(1, pid="1"), ttl_s=1))
    wait_problem(older, "generation 2")
    found = store.get(KEY)
    assert found is not None
    assert json.loads(found.value)["pid"] == "2"
    assert older.status().lease == 0
    newer.end()  # once the newer one is gone, the older one is better than none
    wait_key(store, older)


def test_an_older_generation_gives_way(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    older = start_registrar(registrar_config(server.config(), value=endpoint_value(1), ttl_s=1))
    wait_registered(older)
    newer = start_registrar(registrar_config(server.config(), value=endpoint_value(2), ttl_s=30))
    wait_registered(newer)
    wait_problem(older, "generation 2")
    wait_key(store, newer)


def test_a_restarted_process_of_the_same_name_wins(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    store = Store(server.config())
    first = start_registrar(registrar_config(server.config(), value=endpoint_value(1, pid="1"), ttl_s=1))
    wait_registered(first)
    second = start_registrar(registrar_config(server.config(), value=endpoint_value(1, pid="2"), ttl_s=30))
    wait_registered(second)
    wait_problem(first, "same generation")
    wait_key(store, second)


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_member_that_fails_costs_nothing(
    three_members: EtcdCluster, start_registrar: StartRegistrar, how: str
) -> None:
    probe = start_registrar(registrar_config(three_members.config(), ttl_s=30))
    lease = wait_registered(probe).lease
    member = three_members.members[0]
    getattr(member, how)()
    others = replace(three_members.config(), endpoints=three_members.endpoints[1:])
    try:
        # An update goes the same way as the renewals: it arrives when the next endpoint is in use.
        value = endpoint_value(state="draining")
        probe.update(value)
        store = Store(others)
        wait_value(store, value)
        wait_status(probe, Registration(lease, True, ""))
    finally:
        if how == "pause":
            member.resume()


def test_endpoints_that_never_answer_are_passed_over(server: EtcdCluster, start_registrar: StartRegistrar) -> None:
    config = replace(server.config(), endpoints=("127.0.0.1:1", "no-such-host.invalid:2379", *server.endpoints))
    wait_registered(start_registrar(registrar_config(config)))


def test_a_token_that_runs_out_is_renewed(own_etcd: StartEtcd, start_registrar: StartRegistrar, tmp_path: Path) -> None:
    server = own_etcd(EtcdOptions(extra_flags=("--auth-token-ttl", "1"), die_with_parent=True))
    server.enable_auth("root-password", {"mesh": "right"})
    password = tmp_path / "password"
    password.write_text("wrong\n")
    config = server.config(user="mesh", password_file=str(password))
    probe = start_registrar(registrar_config(config, ttl_s=30))
    wait_problem(probe, "authentication failed")
    password.write_text("right\n")
    lease = wait_registered(probe).lease
    store = Store(config)
    for number in range(3):
        # Another process's dead lease is the clock: longer than the token's life passes each time.
        timer = start_registrar(registrar_config(config, ttl_s=2, key=f"/mesh/timer{number}"))
        wait_registered(timer)
        timer.kill()
        wait_absent(store, f"/mesh/timer{number}")
        value = endpoint_value(number=number)
        probe.update(value)
        wait_value(store, value)
    wait_status(probe, Registration(lease, True, ""))


def test_tls_checks_both_sides(own_etcd: StartEtcd, start_registrar: StartRegistrar, tmp_path: Path) -> None:
    ours, others = Authority.make(tmp_path / "ours"), Authority.make(tmp_path / "others")
    server = own_etcd(EtcdOptions(tls=ours.issue("server"), die_with_parent=True))
    good = ours.issue("client")
    wait_registered(start_registrar(registrar_config(server.config(tls=good))))
    for tls in (
        replace(others.issue("foreign"), ca_file=good.ca_file),  # they do not trust us
        TlsConfig(ca_file=good.ca_file),  # we show no certificate
        replace(good, ca_file=str(tmp_path / "others" / "ca.pem")),  # we do not trust them
        replace(good, key_file="/no/such.key"),
    ):
        probe = start_registrar(registrar_config(server.config(tls=tls), key="/mesh/never"))
        wait_problem(probe, "etcd")
        assert not probe.status().registered
    assert Store(server.config(tls=good)).get("/mesh/never") is None
