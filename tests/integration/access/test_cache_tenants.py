"""Stored answers belong to the tenant of a key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from serving.local.etcd import EtcdCluster
from serving.sdk import AsyncMeshClient
from tests.integration.gateway.raw_replica import raw_replica
from tests.integration.gateway.speaker import Speaker
from tests.support.llm_serving import CacheProcess, GatewayProcess, cache_config

BODY = {"model": "told", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


async def test_tenants_neither_share_nor_remove_answers(
    mesh: AsyncMeshClient, gateways: list[GatewayProcess], etcd: EtcdCluster, tmp_path: Path
) -> None:
    cache = CacheProcess(tmp_path, cache_config(tmp_path, etcd=etcd.config(), application="raw"))
    try:
        await asyncio.to_thread(cache.wait_state, "ready", registered=True)
        keys = [(await mesh.keys.create(tenant=tenant)).text for tenant in ("ann", "bob")]
        told = raw_replica(etcd.config(), "told-0", Speaker(), model="told", content="w")
        async with told, httpx.AsyncClient() as http:
            ann, bob = ({"authorization": f"Bearer {key}", "x-mesh-tenant": "ann"} for key in keys)
            url = gateways[0].url

            async def ask(headers: dict[str, str], control: str = "") -> httpx.Response:
                sent = {**headers, **({"cache-control": control} if control else {})}
                return await http.post(f"{url}/v1/chat/completions", json=BODY, headers=sent, timeout=30)

            async def until(headers: dict[str, str], status: int) -> httpx.Response:
                for _ in range(1200):
                    answer = await ask(headers, "only-if-cached")
                    if answer.status_code == status:
                        return answer
                    await asyncio.sleep(0.1)
                raise AssertionError(f"not within 120 s: {status}; last {answer.status_code} {answer.text}")

            await until(ann, 504)  # until then its key, or the model, is not known
            await until(bob, 504)
            assert (await ask(ann)).headers["x-mesh-cache"] == "miss"
            hit = await until(ann, 200)
            assert hit.headers["x-mesh-cache"] == "exact"
            assert hit.headers["x-mesh-model"] == "default/raw/told"
            assert (await ask(bob, "only-if-cached")).status_code == 504

            nothing = await http.delete(f"{url}/v1/cache", headers=bob)
            assert nothing.json() == {"removed": 0}
            refused = await http.delete(f"{url}/v1/cache", params={"tenant": "ann"}, headers=bob)
            assert refused.status_code == 400
            assert (await http.delete(f"{url}/v1/cache")).status_code == 401
            assert (await ask(ann, "only-if-cached")).status_code == 200
            assert (await http.delete(f"{url}/v1/cache", headers=ann)).json() == {"removed": 1}
            assert (await ask(ann, "only-if-cached")).status_code == 504
    finally:
        cache.end()
