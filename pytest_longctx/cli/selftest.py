"""``longctx selftest``: inject faults into a running engine, to test the checks of the cache paths."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from pytest_longctx.launchers import selftest


def add(commands: Any) -> None:
    """Add the subcommand ``longctx selftest``, which tests the tests with injected faults, to the console parser."""
    tested: ArgumentParser = commands.add_parser(
        "selftest", help="inject faults into a running engine, and print which checks of the cache paths name each"
    )
    tested.add_argument("--engine", required=True, metavar="NAME", help="vllm-cpu")
    tested.add_argument("--logs", type=Path, default=Path("longctx-selftest"), help="folder for the engine's log")
    tested.add_argument(
        "--repetitions",
        type=int,
        metavar="N",
        help="inject no fault; judge N times, with random paths and prompt lengths",
    )
    tested.add_argument("--seed", type=int, default=0, help="seed of the repetitions; default: 0")
    tested.add_argument("faults", nargs="*", help="faults by name; default: all")
    tested.set_defaults(run=_run)


def _run(given: Namespace) -> int:
    def tell(row: str) -> None:
        print(row, flush=True)

    if given.repetitions is not None:
        return 0 if selftest.repeat(given.engine, given.repetitions, given.seed, given.logs, tell) else 1
    return 0 if selftest.run(given.engine, given.faults, given.logs, tell) else 1
