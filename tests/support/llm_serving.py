"""Replicas of language and embedding models, and gateways, as processes that a test starts, follows and ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.deployment.artifact_archive import pack
from serving.store.records import decode, encode
from tests.support.mesh import ROOT
from tests.support.waiting import eventually

MODEL_FOLDER = ROOT / "examples" / "chat" / "model"
MODEL = "tiny-chat"


class LineProcess:
    """A process that says what it does in lines of JSON. `lines` are those of now; its errors go to `log_file`."""

    def __init__(self, command: list[str], log_file: Path) -> None:
        self.log_file = log_file
        self.lines: list[dict[str, Any]] = []
        with log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ)
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a library's own word
                self.lines.append(json.loads(line))

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_line(self, what: str, timeout_s: float = 180.0) -> dict[str, Any]:
        """The first line. Fails with its log when it ends before."""

        def there() -> dict[str, Any] | None:
            if self.process.poll() is not None and not self.lines:
                raise AssertionError(f"{what} ended with {self.process.returncode}:\n{self.log()}")
            return self.lines[0] if self.lines else None

        found = eventually(there, timeout_s=timeout_s, what=what)
        assert found is not None
        return found

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """SIGTERM, then SIGKILL. May be repeated."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(5)


class ReplicaProcess(LineProcess):
    """One replica. `wait_state` follows what it reports."""

    module = ""

    def __init__(self, folder: Path, config: pb.ReplicaConfig) -> None:
        self.config = config
        file = folder / f"{config.id}.json"
        file.write_text(encode(config).decode())
        command = [sys.executable, "-m", self.module, str(file)]
        super().__init__(command, folder / f"{config.id}.log")

    @property
    def report(self) -> pb.ReplicaReport:
        """The last one; an empty one before the first."""
        return decode(pb.ReplicaReport, json.dumps(self.lines[-1]).encode()) if self.lines else pb.ReplicaReport()

    def wait_state(self, state: str, *, registered: bool = False, timeout_s: float = 180.0) -> pb.ReplicaReport:
        def there() -> bool:
            report = self.report
            if report.state == "failed" and state != "failed":
                raise AssertionError(f"{self.config.id} failed: {report.reason}")
            if self.process.poll() is not None and state != "drained":
                raise AssertionError(f"{self.config.id} ended with {self.process.returncode}:\n{self.log()}")
            return report.state == state and (report.registered or not registered)

        eventually(there, timeout_s=timeout_s, what=f"state {state} of {self.config.id}")
        return self.report

    @property
    def url(self) -> str:
        return f"http://{self.report.address}"


class LlmProcess(ReplicaProcess):
    module = "serving.llm"


class EmbeddingProcess(ReplicaProcess):
    module = "serving.embedding"


class CacheProcess(ReplicaProcess):
    module = "serving.cache"


class HttpProxyProcess(ReplicaProcess):
    module = "serving.http_proxy"


def http_proxy_config(
    *,
    name: str = "http-r1-0",
    etcd: EtcdConfig | None = None,
    application: str = "chat",
    require_keys: bool | None = None,
    drain_timeout_s: float = 20,
    **changes: Any,
) -> pb.ReplicaConfig:
    """Of an application's HTTP proxy. `changes` are fields of `ProxyDeployment`."""
    proxy = pb.ProxyDeployment(protocol="http", **changes)
    config = config_of(name, "http", etcd, application=application, proxy=proxy)
    config.drain_timeout_s = drain_timeout_s
    if require_keys is not None:
        config.require_keys = require_keys
    return config


def embedding_config(
    *, name: str = "minilm-r1-0", etcd: EtcdConfig | None = None, application: str = "texts", **changes: Any
) -> pb.ReplicaConfig:
    """Of one replica of the packaged model. `changes` are fields of `EmbeddingDeployment`."""
    embedding = pb.EmbeddingDeployment(**{"threads": 1, **changes})
    return config_of(name, "minilm", etcd, application=application, embedding=embedding)


def cache_config(
    folder: Path, *, name: str = "cache-r1-0", etcd: EtcdConfig | None = None, application: str = "chat", **changes: Any
) -> pb.ReplicaConfig:
    """Of the semantic cache of an application, which keeps its answers in `folder`. `changes` are fields of
    `SemanticCacheDeployment`."""
    cache = pb.SemanticCacheDeployment(**changes)
    return config_of(
        name, "cache", etcd, application=application, cache_dir=str(folder / "cache"), semantic_cache=cache
    )


def config_of(name: str, deployment: str, etcd: EtcdConfig | None, **fields: Any) -> pb.ReplicaConfig:
    """Of a replica of generation 1. `fields` are those of `ReplicaConfig`."""
    config = pb.ReplicaConfig(
        id=name,
        namespace="default",
        deployment=deployment,
        cluster="east",
        generation=1,
        revision=1,
        lease_ttl_s=30,
        log_level="info",
        drain_timeout_s=20,
        **fields,
    )
    if etcd is not None:
        config.etcd.endpoints.extend(etcd.endpoints)
    return config


def llm_config(
    folder: Path,
    *,
    name: str = "chat-r1-0",
    etcd: EtcdConfig | None = None,
    weights: Path = MODEL_FOLDER,
    application: str = "chat",
    **changes: Any,
) -> pb.ReplicaConfig:
    """Of one replica of the tiny chat model. `changes` are fields of `LlmDeployment`, options as a mapping."""
    options = {"threads": 1, "cache_mb": 64, **changes.pop("options", {})}
    artifact = pack(weights, (folder / "artifacts").as_uri())
    llm = pb.LlmDeployment(
        weights=pb.Artifact(uri=artifact.uri, digest=artifact.digest, size_bytes=artifact.size_bytes),
        options=json.dumps(options),
        **{"model": MODEL, **changes},
    )
    return config_of(name, "chat", etcd, application=application, cache_dir=str(folder / "cache"), llm=llm)


class GatewayProcess(LineProcess):
    """One gateway, ready when it is made."""

    def __init__(self, folder: Path, etcd: EtcdConfig, name: str = "gateway", **changes: Any) -> None:
        file = folder / f"{name}.json"
        file.write_text(json.dumps({"etcd": {"endpoints": list(etcd.endpoints)}, **changes}))
        command = [sys.executable, "-m", "serving.gateway", "--config", str(file)]
        super().__init__(command, folder / f"{name}.log")
        try:
            self.url = f"http://{self.wait_line('the gateway')['address']}"
        except BaseException:
            self.end()
            raise
