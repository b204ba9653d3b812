"""What gateways answer about files and batches, for their OpenAPI documents."""

from __future__ import annotations

from typing import Final

from serving.batch.orders.view import BatchObject
from serving.gateway.batch.objects import BatchList, BatchRequest, FileDeleted, FileForm, FileList, FileObject
from serving.gateway.queued.options import KEY
from serving.openai.openapi import Operation, Parameter

FILES: Final = "/v1/files"
BATCHES: Final = "/v1/batches"
_ERRORS: Final = (400, 404, 408, 409, 413, 429, 500, 501, 503, 504)
_KEY: Final = Parameter(KEY, "Whoever sends it again gets what it made first.", "^[!-~]{0,256}$")
_AFTER: Final = Parameter("after", "The last id of the page before.")


def _limit(most: int) -> Parameter:
    return Parameter("limit", f"How many at most, 1 to {most}.", "^[0-9]{1,5}$")


FILES_AND_BATCHES: Final = (
    Operation(
        FILES,
        "files.create",
        "Keeps a file: the input of a batch",
        FileForm,
        FileObject,
        errors=(*_ERRORS, 507),
        headers=(_KEY,),
        form=True,
    ),
    Operation(
        FILES,
        "files.list",
        "The files, the newest first",
        answer=FileList,
        errors=_ERRORS,
        query=(
            _AFTER,
            _limit(10_000),
            Parameter("order", "By when they were made.", "^(asc|desc)$"),
            Parameter("purpose", "Only those of this one."),
        ),
    ),
    Operation(f"{FILES}/{{id}}", "files.get", "A file", answer=FileObject, errors=_ERRORS),
    Operation(
        f"{FILES}/{{id}}",
        "files.delete",
        "Removes a file that no batch reads any more",
        answer=FileDeleted,
        errors=_ERRORS,
        asked="delete",
    ),
    Operation(
        f"{FILES}/{{id}}/content",
        "files.content",
        "What is in a file; `range` gives one range of its bytes",
        media_type="application/octet-stream",
        errors=(*_ERRORS, 416),
        good=(200, 206),
        headers=(Parameter("range", "One range from a beginning.", r"^bytes=[0-9]{1,18}-[0-9]{0,18}$"),),
    ),
    Operation(
        BATCHES,
        "batches.create",
        "Orders the answers to a file of requests",
        BatchRequest,
        BatchObject,
        errors=_ERRORS,
        headers=(_KEY,),
    ),
    Operation(
        BATCHES,
        "batches.list",
        "The batches, the newest first",
        answer=BatchList,
        errors=_ERRORS,
        query=(_AFTER, _limit(100)),
    ),
    Operation(f"{BATCHES}/{{id}}", "batches.get", "A batch", answer=BatchObject, errors=_ERRORS),
    Operation(
        f"{BATCHES}/{{id}}/cancel",
        "batches.cancel",
        "Ends a batch; what is done by then is published",
        answer=BatchObject,
        errors=_ERRORS,
        asked="post",
    ),
)
