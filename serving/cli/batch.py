"""`mesh batch`: files of requests that are answered by and by (`/v1/files` and `/v1/batches` of a gateway)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from serving.cli.batch_options import Asked, gateway_command
from serving.cli.exits import EPILOG
from serving.cli.output import print_json, table
from serving.cli.waiting import Waiting
from serving.errors import FailedPrecondition, InvalidArgument, MeshError

if TYPE_CHECKING:
    from serving.cli.gateway_calls import Gateway

_ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_MIB: Final = 1 << 20
_ID: Final = click.argument("batch_id", metavar="ID")
_TIMEOUT: Final = click.option("--timeout", type=click.FloatRange(0.1), help="Seconds to follow it at most.")
_WATCH: Final = click.option("-w", "--watch", "--wait", is_flag=True, help="Follow it until it has ended.")
_IN_ORDER: Final = click.option("--in-order", is_flag=True, help="Answers in the order of the requests.")
_MODE: Final = click.option(
    "--mode",
    default="shared",
    show_default=True,
    type=click.Choice(("shared", "own")),
    help="own: in an application made for this batch alone.",
)
_FORCE: Final = click.option("--force", is_flag=True, help="Replace files that are there.")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def batch() -> None:
    """Have files of requests answered with what online traffic leaves free, and fetch the answers."""


@gateway_command
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--endpoint", default="", type=click.Choice(("", *_ENDPOINTS)), help="[default: the first line's url]")
@click.option("--window", default="24h", show_default=True, help="Until when it has to end: 45s, 90m, 24h, 7d.")
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="Kept with the batch. May be repeated.")
@_IN_ORDER
@_MODE
@_WATCH
@_TIMEOUT
def submit(
    asked: Asked,
    *,
    file: Path,
    endpoint: str,
    window: str,
    metadata: tuple[str, ...],
    in_order: bool,
    mode: str,
    watch: bool,
    timeout: float | None,
) -> None:
    """Send FILE, one request in each line, and order its answers.

    Lines are checked first: nothing is sent of a file with a wrong one.
    """
    from serving.cli.batch_lines import checked_input

    pairs = _metadata(metadata)
    asked.address()  # before a large file is read for nothing
    with Waiting(f"checking {file}", quiet=asked.as_json) as waiting:
        found, _ = checked_input(file, endpoint)
        wish = {"endpoint": found, "completion_window": window, "metadata": pairs or None, "in_order": in_order}
        wish["mode"] = mode

        async def work(gateway: Gateway) -> dict[str, Any]:
            sent = await gateway.send_file(file, file.name, told=_bytes_told(waiting, "sending"))
            return await gateway.create_batch({"input_file_id": sent["id"], **wish})

        made = asked.run(work)
    _ordered(asked, made, watch=watch, timeout_s=timeout)


@gateway_command
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
def list_(asked: Asked, *, limit: int) -> None:
    """Show the batches, the newest first."""

    async def work(gateway: Gateway) -> list[dict[str, Any]]:
        return [one async for one in gateway.batches(limit)]

    with Waiting("reading the batches", quiet=asked.as_json):
        found = asked.run(work)
    if asked.as_json:
        print_json({"batches": found})
        return
    from serving.cli.batch_text import HEADERS, row

    now_s = time.time()
    rows = [row(one, now_s) for one in found]
    click.echo(table(HEADERS, rows) if rows else "no batches; `mesh batch submit FILE` orders one")


@gateway_command
@_ID
@_WATCH
@_TIMEOUT
def show(asked: Asked, *, batch_id: str, watch: bool, timeout: float | None) -> None:
    """Show a batch: how far it is, and what was wrong with its input."""
    with Waiting(f"reading {batch_id}", quiet=asked.as_json):
        found = asked.run(lambda gateway: gateway.batch(batch_id))
    if watch:
        found = _followed(asked, found, timeout_s=timeout, each=asked.as_json)
        if asked.as_json:
            return
    _show(asked, found)


@gateway_command
@_ID
def cancel(asked: Asked, *, batch_id: str) -> None:
    """End a batch. What is answered by then can be downloaded."""
    with Waiting(f"cancelling {batch_id}", quiet=asked.as_json):
        found = asked.run(lambda gateway: gateway.cancel_batch(batch_id))
    _show(asked, found)


@gateway_command
@_ID
@click.option("--window", default="", help="Until when the rest has to end.  [default: as long as the batch's]")
@click.option("--also-refused", is_flag=True, help="Also lines that a model refused (status 4xx).")
@_IN_ORDER
@_MODE
@_WATCH
@_TIMEOUT
def resume(
    asked: Asked,
    *,
    batch_id: str,
    window: str,
    also_refused: bool,
    in_order: bool,
    mode: str,
    watch: bool,
    timeout: float | None,
) -> None:
    """Order what an expired, cancelled or completed batch has left without an answer, as a new batch.

    One that has not ended needs no word: it goes on by itself as soon as there is a runner. The same command again
    gives the same new batch; with another window it is refused.
    """
    from serving.cli.batch_resuming import Rest, resumed

    with Waiting(f"reading {batch_id}", quiet=asked.as_json) as waiting:
        rest = Rest(window, also_refused=also_refused, in_order=in_order, mode=mode)
        found = asked.run(lambda gateway: resumed(gateway, batch_id, rest, waiting))
    if found.made is None:
        print_json(found.shape()) if asked.as_json else click.echo(found.why)
        return
    if asked.as_json:
        made = _followed(asked, found.made, timeout_s=timeout, each=False) if watch else found.made
        print_json({**found.shape(), "resumed": made})
        _raise_unless_completed(made, watch=watch)
        return
    click.echo(found.why, err=True)
    _ordered(asked, found.made, watch=watch, timeout_s=timeout)


@gateway_command
@_ID
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="[default: ID.output.jsonl]")
@click.option("--errors", type=click.Path(path_type=Path, dir_okay=False), help="[default: ID.errors.jsonl]")
@_FORCE
def download(asked: Asked, *, batch_id: str, output: Path | None, errors: Path | None, force: bool) -> None:
    """Fetch the answers of a batch, and its lines without one."""
    targets = {
        "output": output or Path(f"{batch_id}.output.jsonl"),
        "errors": errors or Path(f"{batch_id}.errors.jsonl"),
    }
    if targets["output"] == targets["errors"]:
        raise InvalidArgument("--output and --errors are the same file")
    with Waiting(f"reading {batch_id}", quiet=asked.as_json) as waiting:

        async def work(gateway: Gateway) -> dict[str, dict[str, Any] | None]:
            found = await gateway.batch(batch_id)
            there = {"output": found["output_file_id"], "errors": found["error_file_id"]}
            if not any(there.values()):
                raise FailedPrecondition(f"batch {batch_id} is {found['status']}: it has no files (yet)")
            for name, target in targets.items():
                if there[name] and target.exists() and not force:
                    raise FailedPrecondition(f"{target} is there already: --force replaces it")
            told = _bytes_told(waiting, "fetching")
            return {
                name: await _fetched(gateway, file_id, targets[name], told) if file_id else None
                for name, file_id in there.items()
            }

        fetched = asked.run(work)
    if asked.as_json:
        print_json({"id": batch_id, **fetched})
        return
    for name, one in fetched.items():
        if one is not None:
            click.echo(f"{name:<8}{one['path']}  {one['bytes']:,} bytes")


async def _fetched(gateway: Gateway, file_id: str, target: Path, told: Callable[[int, int], None]) -> dict[str, Any]:
    return {"path": str(target), "bytes": await gateway.fetch_file(file_id, target, told=told)}


def _ordered(asked: Asked, made: dict[str, Any], *, watch: bool, timeout_s: float | None) -> None:
    """Says what was ordered, and follows it where that is wanted."""
    if watch:
        if not asked.as_json:
            click.echo(made["id"])
        made = _followed(asked, made, timeout_s=timeout_s, each=False)
    _show(asked, made)
    _raise_unless_completed(made, watch=watch)


def _raise_unless_completed(made: dict[str, Any], *, watch: bool) -> None:
    if watch and made["status"] != "completed":
        hint = (
            "its input is wrong" if made["status"] == "failed" else f"`mesh batch resume {made['id']}` orders the rest"
        )
        raise FailedPrecondition(f"batch {made['id']} is {made['status']}: {hint}")


def _followed(asked: Asked, found: dict[str, Any], *, timeout_s: float | None, each: bool) -> dict[str, Any]:
    """Until it has ended. `each`: its states as JSON, a line for each; else people are told on standard error."""
    from serving.batch.progress import LinePrinter
    from serving.cli.batch_following import BatchProgress, follow

    progress, printer = BatchProgress(), LinePrinter(sys.stderr)
    last: list[dict[str, Any]] = []

    def told(one: dict[str, Any], detail: str) -> None:
        if not asked.as_json:
            printer(progress.of(one, detail))
        elif each and last != [one]:
            last[:] = [one]
            print_json({"event": "changed", "batch": one})

    try:
        return asked.run(lambda gateway: follow(gateway, found, told, timeout_s=timeout_s))
    except MeshError:
        if not asked.as_json and sys.stderr.isatty():
            click.echo(err=True)  # else what is wrong would be said behind the line that changes
        raise


def _show(asked: Asked, found: dict[str, Any]) -> None:
    if asked.as_json:
        print_json(found)
        return
    from serving.cli.batch_text import one_batch

    click.echo(one_batch(found, time.time()))


def _bytes_told(waiting: Waiting, doing: str) -> Callable[[int, int], None]:
    """Told by tenths, so that what is no terminal does not get a line for each piece."""

    def told(there: int, total: int) -> None:
        waiting(f"{doing} {total / _MIB:,.1f} MiB ({100 * there // total // 10 * 10} %)" if total else doing)

    return told


def _metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    """Raises `InvalidArgument`; what is too long or too much the gateway says."""
    found: dict[str, str] = {}
    for text in pairs:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidArgument(f"--metadata: `{text[:100]}` is not NAME=VALUE")
        if name in found:
            raise InvalidArgument(f"--metadata names `{name}` twice")
        found[name] = value
    return found


for word, made in (
    ("submit", submit),
    ("list", list_),
    ("show", show),
    ("cancel", cancel),
    ("resume", resume),
    ("download", download),
):
    batch.add_command(made, word)
