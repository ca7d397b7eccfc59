"""
Console command ``longctx``: every task except test runs.

A plan imports less than the others, so its parser stands alone; every other name here is imported at its first use.
"""

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_longctx.cli import plans
from pytest_longctx.errors import LongctxError
from pytest_longctx.redaction import remember, secret_values, shown

if TYPE_CHECKING:
    from pytest_longctx.cli.subcommands import catalogues, commands, docker, kubernetes, process, published_commands

__all__ = ["catalogues", "commands", "docker", "kubernetes", "main", "process", "published_commands"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pytest_longctx.cli.subcommands"), name)


def _plan_alone() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longctx")
    plans.add(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """
    Run one subcommand of the ``longctx`` console. Returns 0 on success, 2 on an error, 1 if a comparison or a
    merged run is red.
    """
    words = sys.argv[1:] if arguments is None else arguments
    remember(secret_values(os.environ, words))
    try:
        if words[:1] == ["plan"]:
            return plans.run(_plan_alone().parse_args(words))
        every = import_module("pytest_longctx.cli.subcommands")
        return int(every.run(every.commands().parse_args(words)))
    except LongctxError as problem:
        print(shown(f"longctx: {problem}"), file=sys.stderr)
        return 2
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
        print(shown(f"longctx: an input was not understood ({said}): please report it"), file=sys.stderr)
        return 2
    except OSError as problem:
        place = f"{problem.filename}: " if problem.filename else ""
        print(shown(f"longctx: {place}{problem.strerror or problem}"), file=sys.stderr)
        return 2
