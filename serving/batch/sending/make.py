"""A sender for a target."""

from __future__ import annotations

from serving.batch.sending.kserve_grpc import KserveGrpc
from serving.batch.sending.openai_http import OpenAiHttp
from serving.batch.sending.places import Discovered, DiscoveredPlaces, Fixed, FixedPlaces, Places, Target
from serving.batch.sending.sender import Sender
from serving.batch.sending.settings import SenderConfig
from serving.errors import NotSupported
from serving.types import PROTOCOL_KSERVE_GRPC, PROTOCOL_OPENAI_HTTP


def make_sender(target: Target, config: SenderConfig | None = None, *, protocol: str = PROTOCOL_OPENAI_HTTP) -> Sender:
    """On the loop that it is to belong to. `protocol` is that of the rows.

    Raises `NotSupported` for tensors to a fixed address, `FailedPrecondition` for files of TLS that cannot be read.
    """
    settings = config or SenderConfig()
    if protocol == PROTOCOL_KSERVE_GRPC:
        if isinstance(target, Fixed):
            raise NotSupported("tensors cannot be sent to a fixed address: name the model's mesh with `Discovered`")
        places: Places = DiscoveredPlaces(target, protocol, unknown_s=settings.unknown_model_s)
        return Sender(places, KserveGrpc(timeout_s=settings.timeout_s, tls=target.tls), settings)
    key = target.api_key if isinstance(target, Fixed) else ""
    transport = OpenAiHttp(
        timeout_s=settings.timeout_s, max_answer_bytes=settings.max_answer_bytes, api_key=key, tls=target.tls
    )
    if isinstance(target, Discovered):
        return Sender(DiscoveredPlaces(target, protocol, unknown_s=settings.unknown_model_s), transport, settings)
    return Sender(FixedPlaces(target), transport, settings)
