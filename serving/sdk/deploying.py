"""Deploy, roll back, delete, and wait for what becomes of it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.errors import Conflict, DeadlineExceeded, FailedPrecondition, NotFound
from serving.sdk import calls
from serving.sdk._artifacts import Artifact
from serving.sdk.keepers import Keepers, RepeatedConflict
from serving.sdk.progress import Stage, assess
from serving.sdk.spec import Application
from serving.sdk.status import AppEvent, AppStatus, DeployResult
from serving.store.keys import AppKey
from serving.timeouts import wait_for
from serving.validation import validate_spec

Notify: TypeAlias = Callable[[str], None]


class Deployer:
    """The calls that change an application."""

    def __init__(self, keepers: Keepers, artifacts_url: str) -> None:
        self._keepers = keepers
        self._artifacts_url = artifacts_url

    async def deploy(self, call: calls.DeployCall) -> DeployResult:
        deadline = time.monotonic() + call.timeout_s
        app = call.application
        app.to_spec()  # says what is wrong before anything is packed
        artifacts = await self._pack(app, call.on_progress)
        spec = app.to_spec(artifacts)
        request = kpb.DeployRequest(spec=spec, if_revision=call.if_revision, dry_run=call.dry_run, author=call.author)
        key = AppKey(spec.namespace, spec.name)
        if _left(deadline) <= 0:
            raise DeadlineExceeded(f"{key} was packed, but not sent: that alone took {call.timeout_s:g} s")
        try:
            response = await self._keepers.call("Deploy", request, timeout_s=_left(deadline))
        except RepeatedConflict as error:
            response = await self._read_back(key, request, error, deadline)
        if call.dry_run:
            return _result(key, response, would_place=True)
        return await self._await_ready(key, response, call.wait, deadline, call.timeout_s, call.on_progress)

    async def rollback(self, call: calls.RollbackCall) -> DeployResult:
        deadline = time.monotonic() + call.timeout_s
        key = call.app
        request = kpb.RollbackRequest(
            namespace=key.namespace, name=key.name, to_revision=call.to_revision, author=call.author
        )
        if not call.to_revision:  # said by number, so that a request that is sent again cannot go back twice
            name = kpb.ApplicationName(namespace=key.namespace, name=key.name)
            kept = (await self._keepers.call("ListRevisions", name, timeout_s=call.timeout_s)).revisions
            request.to_revision, request.if_revision = revision_before(key, kept), kept[0].revision
        try:
            response = await self._keepers.call("Rollback", request, timeout_s=max(_left(deadline), 0.1))
        except RepeatedConflict as error:
            response = await self._rolled_back(key, request, error, deadline)
        return await self._await_ready(key, response, call.wait, deadline, call.timeout_s, call.on_progress)

    async def scale(self, call: calls.ScaleCall) -> DeployResult:
        return await self._change(call, lambda spec: _scaled(spec, call))

    async def split(self, call: calls.SplitCall) -> DeployResult:
        return await self._change(call, lambda spec: _split(spec, call))

    async def _change(
        self, call: calls.ScaleCall | calls.SplitCall, changed: Callable[[pb.ApplicationSpec], pb.ApplicationSpec]
    ) -> DeployResult:
        """Stores the current spec as `changed` makes it; one that was stored meanwhile is read again."""
        deadline = time.monotonic() + call.timeout_s
        name = kpb.ApplicationName(namespace=call.app.namespace, name=call.app.name)
        while True:
            view = await self._keepers.call("GetApplication", name, timeout_s=max(_left(deadline), 0.1))
            request = kpb.DeployRequest(
                spec=changed(view.stored.spec), if_revision=view.stored.revision, author=call.author
            )
            try:
                response = await self._keepers.call("Deploy", request, timeout_s=max(_left(deadline), 0.1))
            except RepeatedConflict as error:
                response = await self._read_back(call.app, request, error, deadline)
            except Conflict:
                if _left(deadline) <= 0:
                    raise
                continue
            return await self._await_ready(call.app, response, call.wait, deadline, call.timeout_s, call.on_progress)

    async def pause(self, call: calls.PauseRolloutCall) -> bool:
        key = call.app
        request = kpb.PauseRolloutRequest(namespace=key.namespace, name=key.name, paused=call.paused)
        return bool((await self._keepers.call("PauseRollout", request, timeout_s=call.timeout_s)).changed)

    async def promote(self, call: calls.PromoteRolloutCall) -> bool:
        deadline = time.monotonic() + call.timeout_s
        key = call.app
        name = kpb.ApplicationName(namespace=key.namespace, name=key.name)
        view = await self._keepers.call("GetApplication", name, timeout_s=call.timeout_s)
        request = kpb.PromoteRolloutRequest(
            namespace=key.namespace,
            name=key.name,
            revision=view.stored.revision,
            steps=_steps_to_pass(key, view, full=call.full),
        )
        left_s = max(_left(deadline), 0.1)
        return bool((await self._keepers.call("PromoteRollout", request, timeout_s=left_s)).changed)

    async def delete(self, call: calls.DeleteCall) -> None:
        deadline = time.monotonic() + call.timeout_s
        key = call.app
        name = kpb.ApplicationName(namespace=key.namespace, name=key.name)
        await self._keepers.call("DeleteApplication", name, timeout_s=call.timeout_s)
        if not call.wait:
            return
        last: AppStatus | None = None
        async with aclosing(_until(self.watch(key.namespace, key.name), deadline)) as events:
            async for event in events:
                if event is None or event.deleted:
                    return
                last = event.status
        text = f": {last.phase} {last.message}".rstrip() if last else ""
        raise DeadlineExceeded(f"{key} is not gone after {call.timeout_s:g} s{text}; it goes on being deleted")

    async def watch(self, namespace: str, name: str) -> AsyncGenerator[AppEvent | None, None]:
        """Every matching application once, then each change. None: there is none (only when one `name` is watched).

        When another keeper takes over, applications that vanished meanwhile are reported as deleted.
        """
        known: dict[AppKey, AppStatus] = {}
        fresh: dict[AppKey, AppStatus] = {}
        syncing = True
        async with aclosing(self._keepers.watch(namespace, name)) as events:
            async for event in events:
                if event is None:  # the next keeper begins with a full picture
                    if syncing:  # the last one was gone before its own was whole
                        known = {**known, **fresh}
                    fresh, syncing = {}, True
                    continue
                if event.synced:
                    for gone in [status for key, status in known.items() if key not in fresh]:
                        yield AppEvent(gone, deleted=True)
                    known, syncing = fresh, False
                    if name and not known:
                        yield None
                    continue
                status = AppStatus.from_view(event.application)
                target = fresh if syncing else known
                if event.deleted:
                    target.pop(status.app, None)
                else:
                    target[status.app] = status
                yield AppEvent(status, deleted=event.deleted)

    async def _rolled_back(
        self, key: AppKey, request: kpb.RollbackRequest, error: Conflict, deadline: float
    ) -> kpb.DeployResponse:
        """The answer that was lost, when what is stored is the rollback that was asked for."""
        name = kpb.ApplicationName(namespace=key.namespace, name=key.name)
        stored = (await self._keepers.call("GetApplication", name, timeout_s=max(_left(deadline), 0.1))).stored
        if stored.note != f"rollback to revision {request.to_revision}" or stored.author != request.author:
            raise Conflict(error.message) from error
        return kpb.DeployResponse(revision=stored.revision, changed=True, uid=stored.uid)

    async def _read_back(
        self, key: AppKey, request: kpb.DeployRequest, error: Conflict, deadline: float
    ) -> kpb.DeployResponse:
        """The answer that was lost, when what is stored is what was asked for; else the conflict is a real one."""
        name = kpb.ApplicationName(namespace=key.namespace, name=key.name)
        view = await self._keepers.call("GetApplication", name, timeout_s=max(_left(deadline), 0.1))
        if view.stored.spec != request.spec or view.stored.author != request.author:
            raise Conflict(error.message) from error
        return kpb.DeployResponse(revision=view.stored.revision, changed=True, uid=view.stored.uid)

    async def _pack(self, app: Application, notify: Notify | None) -> dict[Path, Artifact]:
        folders = app.local_folders()
        if folders and not self._artifacts_url:
            raise FailedPrecondition("the connection names no place for artifacts, so local folders cannot be deployed")
        packed: dict[Path, Artifact] = {}
        for folder in folders:
            _say(notify, f"packing {folder}")
            made = await asyncio.to_thread(pack, folder, self._artifacts_url)
            packed[folder] = Artifact(made.uri, made.digest, made.size_bytes)
        return packed

    async def _await_ready(
        self,
        key: AppKey,
        response: kpb.DeployResponse,
        wait: bool,
        deadline: float,
        timeout_s: float,
        notify: Notify | None,
    ) -> DeployResult:
        stored = "stored" if response.changed else "unchanged"
        _say(notify, f"{key} revision {response.revision} {stored}")
        if not wait:
            return _result(key, response)
        text = "the keeper does not show it yet"
        async with aclosing(_until(self.watch(key.namespace, key.name), deadline)) as events:
            async for event in events:
                if event is None:
                    continue  # a keeper that has not seen the new revision yet
                if event.deleted:
                    raise Conflict(f"{key} was deleted by somebody else while revision {response.revision} was awaited")
                progress = assess(event.status.view, revision=response.revision, uid=response.uid)
                if progress.text != text:
                    _say(notify, progress.text)
                text = progress.text
                if progress.stage is Stage.READY:
                    return _result(key, response, status=event.status)
                if progress.stage is Stage.FAILED:
                    raise FailedPrecondition(f"{key} revision {response.revision} failed: {text}")
                if progress.stage is Stage.REPLACED:
                    raise Conflict(f"{key} revision {response.revision} will not become ready: {text}")
        raise DeadlineExceeded(
            f"{key} revision {response.revision} is not ready after {timeout_s:g} s: {text}; it goes on being started"
        )


def revision_before(key: AppKey, kept: Sequence[pb.StoredSpec]) -> int:
    """The revision to go back to from the current one, the first of `kept` (newest first). Raises `NotFound`.

    It has another spec; and from one that the keeper went back to by itself it is not the one that had failed.
    """
    current = kept[0]
    found = re.fullmatch(r"automatic rollback to revision (\d+):.*", current.note, flags=re.DOTALL)
    below = int(found[1]) if found else current.revision
    for earlier in kept:
        if earlier.revision < below and earlier.spec != current.spec:
            return int(earlier.revision)
    raise NotFound(f"{key} has no revision before {below} with another specification")


def _steps_to_pass(key: AppKey, view: kpb.ApplicationView, *, full: bool) -> int:
    """Raises `FailedPrecondition` where there is no canary of the current revision to promote."""
    canaries = [one for one in view.status.deployments if one.HasField("canary")]
    if view.status.revision != view.stored.revision or not canaries:
        raise FailedPrecondition(f"{key} has no canary of revision {view.stored.revision} under way")
    for one in canaries:
        if one.canary.phase == "failed":
            raise FailedPrecondition(f"the canary of {key}/{one.name} has failed: {one.canary.reason}")
    if full:
        return max(one.canary.steps for one in canaries)
    return min(one.canary.step for one in canaries)  # of several that are at different steps those that are behind


def _split(spec: pb.ApplicationSpec, call: calls.SplitCall) -> pb.ApplicationSpec:
    """Raises `NotFound`, and `SpecError` for weights that are not possible."""
    changed = pb.ApplicationSpec()
    changed.CopyFrom(spec)
    found = next((one for one in changed.traffic if one.name == call.name), None)
    if found is None:
        known = ", ".join(one.name for one in spec.traffic) or "none"
        raise NotFound(f"{call.app} has no traffic split {call.name} (it has: {known})")
    for deployment, weight in call.weights.items():
        side = next((one for one in found.sides if one.deployment == deployment), None)
        if side is None:
            side = found.sides.add(name=deployment, deployment=deployment)
        side.weight = weight
    validate_spec(changed)
    return changed


def _scaled(spec: pb.ApplicationSpec, call: calls.ScaleCall) -> pb.ApplicationSpec:
    """Raises `NotFound`, and `SpecError` for numbers that are not possible."""
    changed = pb.ApplicationSpec()
    changed.CopyFrom(spec)
    found = [one for one in changed.deployments if one.name == call.deployment]
    if not found:
        known = ", ".join(one.name for one in spec.deployments)
        raise NotFound(f"{call.app} has no deployment {call.deployment} (it has: {known})")
    if call.least is not None:
        found[0].replicas.min = call.least
    if call.most is not None:
        found[0].replicas.max = call.most
    validate_spec(changed)
    return changed


async def _until(
    events: AsyncGenerator[AppEvent | None, None], deadline: float
) -> AsyncGenerator[AppEvent | None, None]:
    """The events until the deadline, then the end."""
    try:
        while True:
            try:
                yield await wait_for(anext(events), max(_left(deadline), 0.0))
            except (asyncio.TimeoutError, StopAsyncIteration):
                return
    finally:
        await events.aclose()


def _left(deadline: float) -> float:
    return deadline - time.monotonic()


def _say(notify: Notify | None, text: str) -> None:
    if notify is not None:
        notify(text)


def _result(
    key: AppKey, response: kpb.DeployResponse, *, status: AppStatus | None = None, would_place: bool = False
) -> DeployResult:
    return DeployResult(
        namespace=key.namespace,
        name=key.name,
        revision=response.revision,
        changed=response.changed,
        uid=response.uid,
        status=status,
        would_place=response.would_place if would_place else None,
    )
