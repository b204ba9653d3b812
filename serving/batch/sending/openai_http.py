"""Rows over HTTP, as OpenAI's API has them."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any, Final

from serving.batch.rows.request import RowFault, RowRequest
from serving.batch.sending.places import Spot
from serving.batch.sending.verdict import Next, Reply, fault_of, of_status, rest_s
from serving.config import TlsConfig
from serving.errors import FailedPrecondition, InvalidArgument
from serving.http_client import Broke, HttpClient, NotConnected, Silent
from serving.openai.service_tier import BATCH_CLASS, CLASS_HEADER
from serving.openai.sse import to_json
from serving.timeouts import wait_for

_CONNECT_S: Final = 5.0
_PROMPT_WEIGHT: Final = 0.05  # of a prompt's token against one of an answer
_MULTIPLE_CHOICES: Final = 300  # statuses from here on answer no request
_MOST_TOKENS: Final = 1 << 40  # of one answer; what says more does not count
_PARSED_APART: Final = 1 << 20  # bytes of an answer that would hold up the others


class OpenAiHttp:
    """Belongs to one event loop."""

    def __init__(
        self, *, timeout_s: float, max_answer_bytes: int, api_key: str = "", tls: TlsConfig | None = None
    ) -> None:
        """Raises `FailedPrecondition` for files that cannot be read."""
        self._client = HttpClient(connect_s=_CONNECT_S, silence_s=timeout_s, tls=_context(tls))
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._headers = {
            "content-type": "application/json",
            "accept": "application/json",
            CLASS_HEADER: BATCH_CLASS,
            **({"authorization": f"Bearer {api_key}"} if api_key else {}),
        }

    async def ask(self, spot: Spot, request: RowRequest) -> Reply:
        try:
            data = to_json(request.body)
            answer = await self._client.request("POST", spot.url, request.path, self._headers, data)
        except NotConnected as error:
            return Reply(Next.LATER, fault=RowFault("unavailable", str(error)), unreachable=_is_refused(error))
        except Silent as error:  # it may wait there, or be paused for others: no fault of the endpoint's
            return Reply(Next.LATER, fault=RowFault("unavailable", str(error)), silent=True)
        except Broke as error:
            return Reply(Next.ELSEWHERE, fault=RowFault("unavailable", str(error)))
        except (InvalidArgument, TypeError, ValueError, RecursionError) as error:
            return Reply(Next.ANSWER, fault=RowFault("invalid_request", f"the row cannot be sent: {error}"))
        try:
            raw = await wait_for(answer.read(self._max_answer_bytes), self._timeout_s)
        except Broke as error:
            return Reply(Next.ELSEWHERE, fault=RowFault("unavailable", str(error)))
        except asyncio.TimeoutError:
            fault = RowFault(
                "unavailable", f"{spot.url}: the answer was not whole {self._timeout_s:g} s after its head"
            )
            return Reply(Next.ELSEWHERE, fault=fault)
        finally:
            answer.close()
        return await _reply(answer.status, answer.headers, raw)

    def forget(self, spot: Spot) -> None:
        """Its connections end by themselves."""

    async def close(self) -> None:
        await self._client.close()


async def _reply(status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
    try:
        value = _parsed(raw) if len(raw) < _PARSED_APART else await asyncio.to_thread(_parsed, raw)
    except (ValueError, RecursionError):
        value = None
    fault = fault_of(status, value, raw)
    request_id = headers.get("x-request-id", "")
    found = of_status(status)
    if found is not Next.ANSWER:
        wanted_s = rest_s(headers.get("retry-after", ""))
        return Reply(found, status, value, raw, request_id, fault, rest_s=wanted_s)
    if fault is None and (status >= _MULTIPLE_CHOICES or not isinstance(value, dict)):
        broken = RowFault("invalid_answer", f"status {status}: {raw[:80]!r} is no JSON object that answers")
        return Reply(Next.ELSEWHERE, status, None, raw, request_id, broken)
    return Reply(found, status, value, raw, request_id, fault, work=_work(value))


def _parsed(raw: bytes) -> Any:
    return _decode(raw.decode())


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


_decode: Final = json.JSONDecoder(parse_constant=_refuse_constant).decode


def usage_of(value: Any) -> tuple[int, int]:
    """Tokens of prompt and answer, as an answer of any of OpenAI's APIs says."""
    usage = value.get("usage") if isinstance(value, Mapping) else None
    if not isinstance(usage, Mapping):
        return 0, 0
    return (
        _count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        _count(usage.get("completion_tokens", usage.get("output_tokens"))),
    )


def cached_of(value: Any) -> int:
    """Tokens of the prompt that the replica knew from earlier ones, as the answer says."""
    usage = value.get("usage") if isinstance(value, Mapping) else None
    told = usage if isinstance(usage, Mapping) else {}
    details = told.get("prompt_tokens_details", told.get("input_tokens_details"))
    return _count(details.get("cached_tokens")) if isinstance(details, Mapping) else 0


def _is_refused(error: NotConnected) -> bool:
    return isinstance(error.cause, ConnectionRefusedError)


def _count(value: Any) -> int:
    return min(value, _MOST_TOKENS) if isinstance(value, int) and value > 0 else 0


def _work(value: Any) -> float:
    prompt, answer = usage_of(value)
    return (prompt * _PROMPT_WEIGHT + answer) or 1.0


def _context(tls: TlsConfig | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as error:
        raise FailedPrecondition(f"tls: the files cannot be read: {error.strerror or error}") from error
    return context
