"""An embedding model as KServe v2 sees it: the input `text`, BYTES [n], becomes the output `embedding`, FP32 [n, d].

The parameter `truncate` of a request is that of `EmbeddingRequest`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from serving.embedding.inputs import InputRefused
from serving.errors import InvalidArgument, NotSupported
from serving.python_deployment.codec import Signature
from serving.python_deployment.inference import Deliver
from serving.python_deployment.request import Request, Response, Tensor

if TYPE_CHECKING:
    from serving.embedding.service import EmbeddingCore

PLATFORM: Final = "mesh_embedding"
MODEL_VERSION: Final = "1"
TEXT: Final = "text"
EMBEDDING: Final = "embedding"
_TRUNCATE: Final = "truncate"


class EmbeddingModel:
    """A `Model` of `serving.python_deployment.inference`, on the loop of its core."""

    streams: Final = False

    def __init__(self, core: EmbeddingCore, name: str) -> None:
        self._core = core
        output = Tensor(EMBEDDING, "FP32", (-1, core.dimension))
        self.signature: Final = Signature(name, MODEL_VERSION, (Tensor(TEXT, "BYTES", (-1,)),), (output,))

    async def infer(self, request: Request) -> Response:
        """Raises `InvalidArgument` that names the row of a text that is wrong, and what the core raises."""
        cut = request.parameters.get(_TRUNCATE)
        if cut is not None and not isinstance(cut, bool):
            raise InvalidArgument(f"the parameter `{_TRUNCATE}` is true or false, not {cut!r}")
        try:
            embedded = await self._core.embed(_texts(request[TEXT].tolist()), cut=cut)
        except InputRefused as error:
            raise InvalidArgument(f"{TEXT}[{error.place}] {error.message}") from error
        return Response({EMBEDDING: embedded.vectors})

    async def stream(self, request: Request, deliver: Deliver, deliver_blocking: Callable[[object], None]) -> None:
        del request, deliver, deliver_blocking
        raise NotSupported("an embedding model has one answer to each request")


def _texts(rows: Sequence[bytes]) -> list[str]:
    texts = []
    for place, row in enumerate(rows):
        try:
            texts.append(row.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputRefused(f"is not UTF-8: {error.reason} at byte {error.start}", place, "invalid_value") from error
    return texts
