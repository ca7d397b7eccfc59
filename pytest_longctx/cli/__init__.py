"""
The console command ``longctx``: every task except test runs.

`longctx plan` imports less than the others, so its parser is separate. Every other name here is imported at its first
use.
"""

import argparse
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_longctx.cli import plan
from pytest_longctx.errors import LongctxError, UsageError
from pytest_longctx.redaction import remember, secret_values, shown

if TYPE_CHECKING:
    from pytest_longctx.cli.pages import catalogues, published_commands
    from pytest_longctx.cli.render import docker, kubernetes, process
    from pytest_longctx.cli.subcommands import commands

__all__ = ["catalogues", "commands", "docker", "kubernetes", "main", "process", "published_commands"]


_MODULES = {
    "catalogues": "pytest_longctx.cli.pages",
    "commands": "pytest_longctx.cli.subcommands",
    "docker": "pytest_longctx.cli.render",
    "kubernetes": "pytest_longctx.cli.render",
    "process": "pytest_longctx.cli.render",
    "published_commands": "pytest_longctx.cli.pages",
}
"""The module of each name that is imported at its first use."""
_INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 plus the number of the signal."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def _plan_alone() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longctx")
    plan.add(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """
    Run one subcommand of the ``longctx`` console and return its exit code.

    The code is 0 on success, 1 for a red result, 2 on an error, 130 after Ctrl-C; see docs/reference/console.md.
    """
    words = sys.argv[1:] if arguments is None else arguments
    remember(secret_values(os.environ, words))
    try:
        try:
            return _flushed(_run(words))
        except SystemExit:  # of argparse, after its help or its message
            _flushed(0)
            raise
    except LongctxError as problem:
        return _failed(str(problem))
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as problem:
        said = f"{type(problem).__name__}: {problem}"[:300]
        return _failed(f"internal error: an input was not understood ({said}). Please report this bug")
    except BrokenPipeError:
        return _failed("the reader of the output closed the pipe before the end")
    except OSError as problem:
        place = f"{problem.filename}: " if problem.filename else ""
        return _failed(f"{place}{problem.strerror or problem}")
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(words: list[str]) -> int:
    if any("\0" in word for word in words):
        raise UsageError("an argument contains the character NUL, which is not allowed in a path or a name")
    if words[:1] == ["plan"]:
        return plan.run(_plan_alone().parse_args(words))
    every = import_module("pytest_longctx.cli.subcommands")
    if not words:
        every.commands().print_help()
        return 0
    return int(every.run(every.commands().parse_args(words)))


def _flushed(status: int) -> int:
    """Write out standard output, and return *status*. Raises `OSError` if that fails, for example on a full disk."""
    if sys.stdout is not None:  # None: it was closed when the program started
        sys.stdout.flush()
    return status


def _failed(message: str) -> int:
    """Print *message* on standard error, and return the exit code of an error."""
    try:
        _flushed(0)
    except (OSError, ValueError):
        _discard_output()
    with suppress(OSError):  # standard error may be closed too
        print(shown(f"longctx: {message}"), file=sys.stderr)
    return 2


def _discard_output() -> None:
    """Discard the output that standard output could not take, because the interpreter would write it again at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
