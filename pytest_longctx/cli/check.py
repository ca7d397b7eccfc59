"""``longctx check``: check all findings and deployments, and list the findings that no test can judge."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytest_longctx import paths
from pytest_longctx.deployments import deployment
from pytest_longctx.findings.finding import load_all as load_findings
from pytest_longctx.findings.scope import dead


def add(commands: Any) -> None:
    """Add the subcommand ``longctx check`` to the console parser."""
    check = commands.add_parser(
        "check", help="check all findings and deployments; list findings that no test can judge"
    )
    check.add_argument("--data", type=Path, action="append", default=[], help="folder with findings/ and deployments/")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_run)


def _run(given: Namespace) -> int:
    _check(paths.data(given.data, "--data"), as_json=given.json)
    return 0


def _check(folders: tuple[Path, ...], *, as_json: bool) -> None:
    known = deployment.load_all(tuple(folder / "deployments" for folder in folders))
    found = load_findings(tuple(folder / "findings" for folder in folders))
    unreachable = dead(found.values(), tuple(known.values()))
    if as_json:
        ids = [finding.id for finding in unreachable]
        print(json.dumps({"findings": len(found), "deployments": len(known), "not_judgeable": ids}, indent=1))
        return
    print(f"{len(found)} findings and {len(known)} deployments; {len(unreachable)} findings that no test can judge")
    for finding in unreachable:
        print(f"{finding.id} {finding.title}")
