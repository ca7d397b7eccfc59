"""The parser of all ``longctx`` subcommands, each of which is in its own module."""

import argparse
from argparse import Namespace

from pytest_longctx import __version__
from pytest_longctx.cli import (
    certify,
    check,
    completion,
    doctor,
    engine,
    examples,
    init,
    listing,
    model,
    pages,
    plan,
    record,
    render,
    results_files,
    selftest,
    watch,
)
from pytest_longctx.reports import log_report


def commands() -> argparse.ArgumentParser:
    """Return the parser of all ``longctx`` subcommands."""
    parser = argparse.ArgumentParser(prog="longctx", description="Commands of pytest-longctx that need no test run.")
    parser.add_argument("--version", action="version", version=f"pytest-longctx {__version__}")
    completion.add(parser)
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    engine.add(subcommands)
    doctor.add(subcommands)
    init.add(subcommands)
    record.add(subcommands)
    listing.add(subcommands)
    model.add(subcommands)
    plan.add(subcommands)
    pages.add(subcommands)
    check.add(subcommands)
    selftest.add(subcommands)
    results_files.add(subcommands)
    render.add(subcommands)
    log_report.add(subcommands)
    certify.add(subcommands)
    watch.add(subcommands)
    examples.add(subcommands.choices)
    return parser


def run(given: Namespace) -> int:
    """Run the parsed subcommand. Return 0 on success, 1 if a comparison or a merged run is red."""
    return int(given.run(given))
