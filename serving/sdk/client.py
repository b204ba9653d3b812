"""The asyncio client of a mesh: deploy, follow, and send requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

from typing_extensions import Unpack

from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving.discovery.client import InferenceClient
from serving.discovery.client_config import ClientConfig
from serving.errors import Internal, InvalidArgument
from serving.routing import Rank
from serving.sdk import calls
from serving.sdk._app_names import AppName, app_key
from serving.sdk.api_keys import AsyncApiKeys
from serving.sdk.brokers import Brokers
from serving.sdk.connection import Connection
from serving.sdk.deploying import Deployer, Notify
from serving.sdk.inference import InferenceClients
from serving.sdk.keepers import Keepers
from serving.sdk.queue import QueueClient, QueueHandlers, SubmitOptions
from serving.sdk.routes import RouteHandlers, RoutesClient
from serving.sdk.spec import Application
from serving.sdk.status import AppEvent, AppStatus, DeployResult, ModelMetadata
from serving.sdk.tensors import Array, Parameter
from serving.sdk.tickets import Ticket
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.store.records import decode
from serving.types import ROLE_DIRECT

CONTROL_TIMEOUT_S: Final = 15.0
DEPLOY_TIMEOUT_S: Final = 300.0
INFER_TIMEOUT_S: Final = 30.0

T = TypeVar("T")


class AsyncMeshClient:
    """A client of one mesh. Belongs to one event loop; `async with` closes it. The constructor does no I/O.

    Every method raises errors of `serving.errors`; those that take `timeout_s` end within it.
    """

    def __init__(
        self,
        connection: Connection | None = None,
        *,
        interceptors: Sequence[calls.Interceptor] = (),
        client_config: ClientConfig | None = None,
        rank: Rank | None = None,
    ) -> None:
        """`connection` is by default what the environment says (`Connection.from_env`).

        `interceptors` are put around every call (see `serving.sdk.calls`). `client_config` is how requests are retried;
        `rank` prefers endpoints by labels (`serving.routing.prefer_labels`).
        """
        self.connection = connection if connection is not None else Connection.from_env()
        self._store = EtcdClient(self.connection.etcd)
        self._keepers = Keepers(self._store, self.connection.tls)
        self._deployer = Deployer(self._keepers, self.connection.artifacts)
        self._inference = InferenceClients(self._store, self.connection.tls, client_config, rank)
        self._brokers = Brokers(self._store, self.connection.tls)
        self.keys = AsyncApiKeys(self._keepers)
        self._handlers: dict[type, Callable[[Any], Awaitable[Any]]] = {
            calls.DeployCall: self._deployer.deploy,
            calls.RollbackCall: self._deployer.rollback,
            calls.DeleteCall: self._deployer.delete,
            calls.PauseRolloutCall: self._deployer.pause,
            calls.PromoteRolloutCall: self._deployer.promote,
            calls.SplitCall: self._deployer.split,
            calls.ScaleCall: self._deployer.scale,
            calls.StatusCall: self._status,
            calls.ListCall: self._list,
            calls.ClustersCall: self._clusters,
            calls.RevisionsCall: self._revisions,
            calls.EndpointsCall: self._endpoints,
            calls.InferCall: self._inference.infer,
            calls.ModelMetadataCall: self._inference.model_metadata,
            **RouteHandlers(self._keepers).by_call,
            **QueueHandlers(self._brokers).by_call,
        }
        self._handle = calls.chain(interceptors, self._dispatch)
        self.routes = RoutesClient(self._handle)
        self.queue = QueueClient(self._handle, self._brokers)

    async def __aenter__(self) -> AsyncMeshClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection. May be called more than once."""
        await self._brokers.close()
        await self._inference.close()
        await self._keepers.close()
        await self._store.close()

    # -------------------------------------------------------------------------------------------- applications

    async def deploy(
        self,
        app: Application,
        *,
        wait: bool = False,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        if_revision: int = 0,
        dry_run: bool = False,
        author: str = "",
        on_progress: Notify | None = None,
    ) -> DeployResult:
        """Stores `app` as a new revision, unless it equals the current one; its local folders are packed and stored.

        `wait`: returns when that revision is ready; raises `FailedPrecondition` with every reason when it failed,
        `Conflict` when it was replaced, `DeadlineExceeded` that says what is missing. `if_revision`: only if this is
        the current revision, else `Conflict`. `dry_run`: only says where it would be placed. `on_progress` gets
        sentences.
        """
        return await self._call(
            calls.DeployCall(app, wait, timeout_s, if_revision, dry_run, author, on_progress), DeployResult
        )

    async def status(self, app: AppName, *, timeout_s: float = CONTROL_TIMEOUT_S) -> AppStatus:
        """The application as it is now. Raises `NotFound`."""
        return await self._call(calls.StatusCall(app_key(app), timeout_s), AppStatus)

    async def list(self, namespace: str = "", *, timeout_s: float = CONTROL_TIMEOUT_S) -> tuple[AppStatus, ...]:
        """The applications of a namespace, or of all."""
        found: tuple[AppStatus, ...] = await self._call(calls.ListCall(namespace, timeout_s), tuple)
        return found

    async def delete(self, app: AppName, *, wait: bool = False, timeout_s: float = DEPLOY_TIMEOUT_S) -> None:
        """Has the application drained and removed; `wait`: returns when it is gone. Raises `NotFound`."""
        await self._call(calls.DeleteCall(app_key(app), wait, timeout_s), type(None))

    async def watch(self, app: AppName = "", *, namespace: str = "") -> AsyncIterator[AppEvent]:
        """Every application (or `app`, or those of `namespace`) once, then each change, until the caller stops.

        Goes on with another keeper when one dies; the picture is then sent again.
        """
        key = app_key(app) if app else AppKey(namespace, "")
        events = self._deployer.watch(key.namespace, key.name)
        try:
            async for event in events:
                if event is not None:
                    yield event
        finally:
            await events.aclose()

    async def revisions(self, app: AppName, *, timeout_s: float = CONTROL_TIMEOUT_S) -> tuple[pb.StoredSpec, ...]:
        """The stored revisions, newest first. Raises `NotFound`."""
        found: tuple[pb.StoredSpec, ...] = await self._call(calls.RevisionsCall(app_key(app), timeout_s), tuple)
        return found

    async def rollback(
        self,
        app: AppName,
        to_revision: int = 0,
        *,
        wait: bool = False,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        author: str = "",
        on_progress: Notify | None = None,
    ) -> DeployResult:
        """Stores the spec of an older revision as a new one, by default of the one before the current one (0).

        A paused rollout goes on with it. `wait` and errors as with `deploy`.
        """
        return await self._call(
            calls.RollbackCall(app_key(app), to_revision, wait, timeout_s, author, on_progress), DeployResult
        )

    async def scale(
        self,
        app: AppName,
        deployment: str,
        *,
        least: int | None = None,
        most: int | None = None,
        wait: bool = False,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        author: str = "",
        on_progress: Notify | None = None,
    ) -> DeployResult:
        """Stores the current spec with `least` and `most` replicas of a deployment; None leaves a number as it is.

        Raises `NotFound`, and `SpecError` for numbers that are not possible. `wait` and other errors as with `deploy`.
        """
        call = calls.ScaleCall(app_key(app), deployment, least, most, wait, timeout_s, author, on_progress)
        return await self._call(call, DeployResult)

    async def pause_rollout(self, app: AppName, *, timeout_s: float = CONTROL_TIMEOUT_S) -> bool:
        """No replica is replaced any more until `resume_rollout`; later revisions wait, too. False: it was so already.

        What dies is still replaced. Raises `NotFound`.
        """
        return await self._call(calls.PauseRolloutCall(app_key(app), True, timeout_s), bool)

    async def resume_rollout(self, app: AppName, *, timeout_s: float = CONTROL_TIMEOUT_S) -> bool:
        """Lets a paused rollout go on. False: it was not paused. Raises `NotFound`."""
        return await self._call(calls.PauseRolloutCall(app_key(app), False, timeout_s), bool)

    async def promote_rollout(self, app: AppName, *, full: bool = False, timeout_s: float = CONTROL_TIMEOUT_S) -> bool:
        """Lets the canaries of an application pass the step at which they are, or all (`full`). False: they do already.

        Raises `NotFound`, and `FailedPrecondition` where no canary is under way, or it has failed.
        """
        return await self._call(calls.PromoteRolloutCall(app_key(app), full, timeout_s), bool)

    async def split(
        self,
        app: AppName,
        name: str,
        weights: Mapping[str, int],
        *,
        wait: bool = False,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        author: str = "",
        on_progress: Notify | None = None,
    ) -> DeployResult:
        """Stores the current spec with other weights, by deployment, of the traffic split `name`.

        Deployments that are not named keep theirs. Raises `NotFound`, and `SpecError` for weights that are not
        possible. `wait` and other errors as with `deploy`.
        """
        call = calls.SplitCall(app_key(app), name, weights, wait, timeout_s, author, on_progress)
        return await self._call(call, DeployResult)

    async def clusters(self, *, timeout_s: float = CONTROL_TIMEOUT_S) -> tuple[kpb.ClusterView, ...]:
        """The Ray clusters that the keeper knows."""
        found: tuple[kpb.ClusterView, ...] = await self._call(calls.ClustersCall(timeout_s), tuple)
        return found

    async def endpoints(self, app: AppName, *, role: str = ROLE_DIRECT) -> tuple[pb.Endpoint, ...]:
        """What is registered in discovery now, in the order of deployments and ids; `role` "" is any."""
        found: tuple[pb.Endpoint, ...] = await self._call(calls.EndpointsCall(app_key(app), role), tuple)
        return found

    # -------------------------------------------------------------------------------------------- requests

    async def infer(
        self,
        app: AppName,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] | None = None,
        version: str = "",
        deployment: str = "",
        timeout_s: float = INFER_TIMEOUT_S,
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        retry_safe: bool = True,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> dict[str, Array]:
        """Asks `model` of `app` and returns its outputs by name (all, or `outputs`).

        `inputs` are arrays by name; texts and bytes become BYTES, BF16 is `ml_dtypes.bfloat16` or `BF16(...)`. Outputs
        are read-only views of the answer; BYTES are object arrays of `bytes`. A request that fails for a reason that
        is not its own goes to another replica while time is left, unless `retry_safe` is False.
        """
        return await self._call(
            calls.InferCall(
                app_key(app),
                model,
                inputs,
                outputs,
                version,
                deployment,
                timeout_s,
                request_id,
                parameters,
                retry_safe,
                metadata,
            ),
            dict,
        )

    async def model_metadata(
        self,
        app: AppName,
        model: str,
        *,
        version: str = "",
        deployment: str = "",
        timeout_s: float = INFER_TIMEOUT_S,
    ) -> ModelMetadata:
        """Names, types and shapes of the model's inputs and outputs, asked of a replica. Raises `NotFound`."""
        return await self._call(
            calls.ModelMetadataCall(app_key(app), model, version, deployment, timeout_s), ModelMetadata
        )

    async def submit(
        self,
        app: AppName,
        deployment: str,
        inputs: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Ticket:
        """Gives a request to a broker of `app`, which keeps it until a replica of `deployment` asks for work.

        `inputs` are those of `infer`; for language models give `body`, a dict as OpenAI's API takes it, instead.
        Returns when the request is on disk. One that fails on the way is repeated safely. Raises `QueueFull` when a
        limit of the broker is reached, `NotFound` where no broker takes requests for the deployment.
        """
        return await self.queue.submit(app, deployment, inputs, **options)

    def ticket(self, text: str) -> Ticket:
        """The ticket whose text this is. Raises `InvalidArgument`."""
        return self.queue.ticket(text)

    async def inference_client(self, app: AppName) -> InferenceClient:
        """The application's own client: its counters, its endpoints, whether they are stale. It is closed with this."""
        return await self._inference.client(app_key(app))

    # -------------------------------------------------------------------------------------------- dispatch

    async def _call(self, call: calls.Call, answers: type[T]) -> T:
        """Through the interceptors; what they answer must be what the call promises."""
        answer = await self._handle(call)
        if not isinstance(answer, answers):
            raise Internal(f"an interceptor answered {type(call).__name__} with {type(answer).__name__}")
        return answer

    async def _dispatch(self, call: calls.Call) -> Any:
        handler = self._handlers.get(type(call))
        if handler is None:
            raise InvalidArgument(f"an interceptor passed on {type(call).__name__}, which is not a call")
        return await handler(call)

    async def _status(self, call: calls.StatusCall) -> AppStatus:
        return AppStatus.from_view(await self._ask("GetApplication", _name(call.app), call.timeout_s))

    async def _list(self, call: calls.ListCall) -> tuple[AppStatus, ...]:
        request = kpb.ListApplicationsRequest(namespace=call.namespace)
        answer = await self._ask("ListApplications", request, call.timeout_s)
        return tuple(AppStatus.from_view(view) for view in answer.applications)

    async def _clusters(self, call: calls.ClustersCall) -> tuple[kpb.ClusterView, ...]:
        return tuple((await self._ask("ListClusters", kpb.ListClustersRequest(), call.timeout_s)).clusters)

    async def _revisions(self, call: calls.RevisionsCall) -> tuple[pb.StoredSpec, ...]:
        return tuple((await self._ask("ListRevisions", _name(call.app), call.timeout_s)).revisions)

    async def _endpoints(self, call: calls.EndpointsCall) -> tuple[pb.Endpoint, ...]:
        snapshot = await self._store.get_prefix(keys.endpoints(call.app, call.role))
        return tuple(decode(pb.Endpoint, entry.value) for entry in snapshot.kvs)

    async def _ask(self, method: str, request: Any, timeout_s: float) -> Any:
        return await self._keepers.call(method, request, timeout_s=timeout_s)


def _name(key: AppKey) -> kpb.ApplicationName:
    return kpb.ApplicationName(namespace=key.namespace, name=key.name)
