"""`mesh infer`: one request, from a file."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from lzma import LZMAError
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import click

from serving.cli import names
from serving.cli.options import APPLICATIONS, Settings, command
from serving.cli.output import print_json
from serving.cli.waiting import Waiting
from serving.errors import InvalidArgument

if TYPE_CHECKING:
    from serving.sdk import ModelMetadata, TensorMetadata
    from serving.store.keys import AppKey

MAX_SHOWN = 20


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
@click.argument("model")
@click.option(
    "--input",
    "inputs",
    required=True,
    multiple=True,
    metavar="[NAME=]FILE",
    help="A .npy, .npz or .json file; with NAME= for one input of several. May be repeated.",
)
@click.option("--name", "input_name", default="", help="The input that a .npy file or a JSON list is meant for.")
@click.option("--output", "outputs", multiple=True, help="Only this output. May be repeated.")
@click.option("--model-version", default="", help="Version of the model.  [default: its newest]")
@click.option(
    "--via",
    type=click.Choice(["direct", "proxy"]),
    default="direct",
    show_default=True,
    help="Straight to a replica, or through one of the application's proxies.",
)
@click.option("--timeout", type=click.FloatRange(0.001), default=30.0, show_default=True, help="Seconds.")
def infer(
    settings: Settings,
    *,
    app: str,
    model: str,
    inputs: tuple[str, ...],
    input_name: str,
    outputs: tuple[str, ...],
    model_version: str,
    via: str,
    timeout: float,
) -> None:
    """Ask MODEL of APP once, at the best replica, and print its outputs.

    \b
    A .npy file holds one input. A .npz file holds inputs by name. A .json file is {"input": [[1, 2]], ...},
    or a bare list for one input. JSON lists take the datatype that the model declares.
    """
    key = settings.app(app)
    files = [_source(text, input_name) for text in inputs]
    with Waiting(f"asking {model} of {key}", quiet=settings.as_json):
        found, took_s = asyncio.run(_ask(settings, key, model, files, outputs, model_version, via, timeout))
    if settings.as_json:
        print_json({"model": model, "milliseconds": round(took_s * 1000, 3), "outputs": _shape(found)})
        return
    for name in sorted(found):
        array = found[name]
        click.echo(f"{name}  {array.dtype}{list(array.shape)}")
        click.echo(_text(array))
    click.echo(f"{took_s * 1000:.1f} ms", err=True)


async def _ask(
    settings: Settings,
    key: AppKey,
    model: str,
    files: list[tuple[str, Path]],
    outputs: tuple[str, ...],
    version: str,
    via: str,
    timeout: float,
) -> tuple[dict[str, Any], float]:
    from serving.sdk import AsyncMeshClient, ClientConfig

    async with AsyncMeshClient(settings.connection(), client_config=ClientConfig(via=via)) as client:
        await client.status(key)  # NotFound for an application that is not there, instead of a wait for endpoints
        metadata = await client.model_metadata(key, model, version=version, timeout_s=timeout)
        tensors = read_inputs(files, metadata)
        started = time.perf_counter()
        found = await client.infer(
            key, model, tensors, outputs=list(outputs) or None, version=version, timeout_s=timeout
        )
        return dict(found), time.perf_counter() - started


def read_inputs(files: list[tuple[str, Path]], metadata: ModelMetadata) -> dict[str, Any]:
    """The inputs by name, in the model's datatypes. Raises `InvalidArgument` that names file and input."""
    inputs: dict[str, Any] = {}
    for name, path in files:
        for found, value in _read(path).items():
            wanted = found or name or _only_input(path, metadata)
            tensor = next((item for item in metadata.inputs if item.name == wanted), None)
            if tensor is None:
                names = ", ".join(item.name for item in metadata.inputs)
                raise InvalidArgument(f"{path}: the model {metadata.name} has no input `{wanted}` (it has: {names})")
            if wanted in inputs:
                raise InvalidArgument(f"{path}: input `{wanted}` is given twice")
            inputs[wanted] = _array(value, tensor, path)
    missing = [item.name for item in metadata.inputs if item.name not in inputs]
    if missing:
        raise InvalidArgument(f"the model {metadata.name} also needs {', '.join(missing)}: --input {missing[0]}=FILE")
    return inputs


def _source(text: str, name: str) -> tuple[str, Path]:
    """`NAME=FILE` or `FILE`."""
    before, equals, after = text.partition("=")
    if equals and not Path(text).exists():
        return before, _existing(after)
    return name, _existing(text)


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise InvalidArgument(f"--input: there is no file {path}")
    if path.suffix not in (".npy", ".npz", ".json"):
        raise InvalidArgument(f"--input: {path} is none of .npy, .npz, .json")
    return path


def _read(path: Path) -> dict[str, Any]:
    """Values by input; the name "" is for the one that `--name` or the model says."""
    try:
        if path.suffix != ".json":
            return _read_numpy(path)
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {"": value}


def _read_numpy(path: Path) -> dict[str, Any]:
    """What the file holds decides, not its name: one array, or an archive of several by name."""
    import numpy as np

    damaged = (ValueError, OSError, EOFError, KeyError, RuntimeError, MemoryError, BadZipFile, zlib.error, LZMAError)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            found = {name: loaded[name] for name in loaded.files}
    except damaged as error:
        raise InvalidArgument(f"{path} is not a numpy file without pickled objects: {error}") from error
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            raise InvalidArgument(f"{path}: its entry `{name}` is no numpy array")
    return found


def _only_input(path: Path, metadata: ModelMetadata) -> str:
    if len(metadata.inputs) == 1:
        return metadata.inputs[0].name
    names = ", ".join(item.name for item in metadata.inputs)
    raise InvalidArgument(f"{path}: the model {metadata.name} has several inputs ({names}); say which with --name")


def _array(value: Any, tensor: TensorMetadata, path: Path) -> Any:
    """Lists take the model's datatype; arrays keep their own, so that a mistake is answered and not hidden."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return value
    if tensor.datatype == "BYTES":
        return np.array(value, dtype=object)
    from serving.cli.datatypes import numpy_dtype
    from serving.sdk import BF16

    try:
        if tensor.datatype == "BF16":
            return BF16(np.array(value, dtype=np.float32))
        return np.array(value, dtype=numpy_dtype(tensor.datatype))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgument(
            f"{path}: input `{tensor.name}` is not a full list of {tensor.datatype}: {error}"
        ) from error


def _shape(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"dtype": str(array.dtype), "shape": list(array.shape), "data": _plain(array.tolist())}
        for name, array in found.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _text(array: Any) -> str:
    import numpy as np

    with np.printoptions(threshold=MAX_SHOWN * 50, linewidth=100, precision=6, suppress=True):
        return str(array)
