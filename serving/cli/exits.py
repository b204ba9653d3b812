"""Exit codes, and how errors are said: one sentence for people, one object for machines, never a trace."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

import click

from serving.errors import Code, MeshError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
UNAVAILABLE: Final = 4
TIMEOUT: Final = 5
INTERRUPTED: Final = 130

EPILOG: Final = """\b
Exit codes: 0 done, 1 failed, 2 wrong usage or spec, 3 not found,
4 nobody answers (no mesh, no keeper, no etcd), 5 timed out, 130 interrupted.
"""

_BY_CODE: Final = {
    Code.INVALID_ARGUMENT: USAGE,
    Code.NOT_FOUND: NOT_FOUND,
    Code.UNAVAILABLE: UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: TIMEOUT,
    Code.CANCELLED: INTERRUPTED,
}


def exit_code(error: MeshError) -> int:
    """The exit code that an error is worth."""
    return _BY_CODE.get(error.code, FAILED)


@contextmanager
def reported(*, as_json: bool, debug: bool) -> Iterator[None]:
    """Ends the process with the right code and one sentence on standard error for whatever goes wrong inside."""
    try:
        yield
    except MeshError as error:
        if debug:
            traceback.print_exc()
        fail(error.message, exit_code(error), as_json=as_json, word=error.code.name)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left, e.g. `mesh status | head`
        sys.exit(OK)
    except Exception as error:  # noqa: BLE001 - the edge: people get a sentence
        if debug:
            traceback.print_exc()
        text = f"unexpected {type(error).__name__}: {error}. This is a fault of the mesh; --debug shows where"
        fail(text, FAILED, as_json=as_json, word=Code.INTERNAL.name)


def fail_usage(error: click.ClickException, words: Sequence[str]) -> NoReturn:
    """Says what is wrong with the command line `words`, as everything else that goes wrong is said."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        sys.exit(error.exit_code)
    hint = f" (`{context.command_path} --help` says what there is)" if context is not None else ""
    options = words[: words.index("--")] if "--" in words else words
    word = Code.INVALID_ARGUMENT if error.exit_code == USAGE else Code.INTERNAL
    fail(error.format_message() + hint, error.exit_code, as_json="--json" in options, word=word.name)


def fail(message: str, code: int, *, as_json: bool = False, word: str = "") -> NoReturn:
    """Says it and ends with `code`."""
    if as_json:
        sys.stderr.write(json.dumps({"error": {"code": word, "message": message, "exit_code": code}}) + "\n")
    else:
        sys.stderr.write(f"mesh: {message}\n")
    sys.exit(code)
