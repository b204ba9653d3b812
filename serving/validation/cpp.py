"""What makes the `cpp` part of a spec valid. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from serving._proto import records_pb2 as pb
from serving.problems import Problem, check_whole, is_clean, shown
from serving.validation.python import MAX_MESSAGE_BYTES, MAX_REQUESTS, MAX_THREADS, MODEL_NAME, json_object

MAX_LIBRARY: Final = 1000
MAX_BUSY_POLL_US: Final = 1000  # as cpp_ext/registry/config_fields.cc has it


def cpp_problems(path: str, cpp: pb.CppDeployment) -> Iterator[Problem]:
    """Everything but its artifacts, which are like those of other kinds."""
    yield from _library(f"{path}.library", cpp)
    for field, text in (("args", cpp.args), ("config", cpp.config)):
        if json_object(text) is None:
            yield Problem(f"{path}.{field}", "is not a JSON object")
    if cpp.model and not MODEL_NAME.fullmatch(cpp.model):
        yield Problem(f"{path}.model", f"{shown(cpp.model)} is not a name of a model (letters, digits, `_ . + -`)")
    yield from check_whole(f"{path}.max_requests", cpp.max_requests, 0, MAX_REQUESTS, "; 0 is the default of 10000")
    yield from check_whole(
        f"{path}.max_message_bytes", cpp.max_message_bytes, 0, MAX_MESSAGE_BYTES, "; 0 is the default"
    )
    yield from check_whole(f"{path}.threads", cpp.threads, 0, MAX_THREADS, "; 0 is the default of 8")
    yield from busy_poll_problems(path, cpp.busy_poll_us)


def busy_poll_problems(path: str, value: int) -> Iterator[Problem]:
    """Of every kind whose ingress is in C++."""
    note = "; in microseconds, 0 does not poll"
    yield from check_whole(f"{path}.busy_poll_us", value, 0, MAX_BUSY_POLL_US, note)


def _library(path: str, cpp: pb.CppDeployment) -> Iterator[Problem]:
    library = PurePosixPath(cpp.library)
    if not cpp.library:
        yield Problem(path, "is missing: the shared library, such as `librecommend.so`")
    elif not is_clean(cpp.library) or len(cpp.library) > MAX_LIBRARY:
        yield Problem(path, f"{shown(cpp.library)} is not a path of a library")
    elif cpp.HasField("code") and (library.is_absolute() or ".." in library.parts):
        yield Problem(path, f"{shown(cpp.library)} must be a path in `code`")
    elif not cpp.HasField("code") and not library.is_absolute():
        yield Problem(path, f"{shown(cpp.library)} must be an absolute path where there is no `code`")
