"""What a gateway counts, and when it forgets it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from serving.gateway.instruments import Instruments


def test_sides_of_applications_that_are_gone_are_forgotten_too() -> None:
    now = [0.0]
    registry = CollectorRegistry()
    instruments = Instruments(registry, lambda: now[0])
    for app in ("ns/kept", "ns/gone"):
        instruments.on_side(app, (("s", "old"),), spared=True)
    now[0] = 700.0
    instruments.keep({"ns/kept/chat"})
    text = generate_latest(registry).decode()
    assert 'split_spared_total{application="ns/kept"' in text
    assert "ns/gone" not in text


def test_models_that_are_gone_are_forgotten_after_a_while() -> None:
    now = [0.0]
    registry = CollectorRegistry()
    instruments = Instruments(registry, lambda: now[0])

    def counted(model: str) -> bool:
        return f'mesh_gateway_requests_total{{model="{model}"' in generate_latest(registry).decode()

    for model in ("ns/app/kept", "ns/app/gone", ""):
        instruments.count("/v1/chat/completions", model, "200")
        instruments.count("/v1/chat/completions", model, "429")
    now[0] = 500.0
    instruments.keep({"ns/app/kept"})
    assert counted("ns/app/gone")  # it may come back, and its last numbers are to be scraped
    now[0] = 700.0
    instruments.keep({"ns/app/kept"})
    assert [counted(model) for model in ("ns/app/kept", "ns/app/gone", "")] == [True, False, True]
    instruments.count("/v1/chat/completions", "ns/app/gone", "200")  # one that ran until now
    assert counted("ns/app/gone")
    now[0] = 1400.0
    instruments.keep({"ns/app/kept"})
    assert not counted("ns/app/gone")
