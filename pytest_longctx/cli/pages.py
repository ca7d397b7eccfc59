"""``longctx findings``, ``signatures`` and ``commands``: write the pages of the documentation."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_longctx import backends, paths, registry
from pytest_longctx.deployments import deployment
from pytest_longctx.diagnosis import signatures as diagnosis_signatures
from pytest_longctx.diagnosis.signatures import Catalogue
from pytest_longctx.findings.finding import load_all as load_findings
from pytest_longctx.reports import pages
from pytest_longctx.reports.documents import claims as published
from pytest_longctx.reports.documents.commands import commands_page
from pytest_longctx.reports.documents.commands import load as load_commands


def add(commands: Any) -> None:
    """Add the subcommands ``longctx findings``, ``signatures`` and ``commands`` to the console parser."""
    findings = commands.add_parser(
        "findings", help="write the findings as Markdown pages, one for each source document"
    )
    findings.add_argument("folder", type=Path, help="output folder")
    findings.add_argument("--data", type=Path, action="append", default=[], help="folder with findings/")
    findings.set_defaults(run=_findings)
    signatures = commands.add_parser("signatures", help="write the log signatures of all engines as one Markdown page")
    signatures.add_argument("folder", type=Path, help="output folder")
    signatures.set_defaults(run=_signatures)
    published = commands.add_parser(
        "commands", help="write the published and the rendered start commands as one Markdown page"
    )
    published.add_argument("folder", type=Path, help="output folder")
    published.set_defaults(run=_commands)


def _findings(given: Namespace) -> int:
    _write_pages(given.folder, paths.data(given.data, "--data"))
    return 0


def _signatures(given: Namespace) -> int:
    _write(given.folder, {"signatures.md": pages.signatures_page(catalogues())})
    return 0


def _commands(given: Namespace) -> int:
    _write(given.folder, {"commands.md": published_commands()})
    return 0


def _write_pages(folder: Path, sources: tuple[Path, ...]) -> None:
    found = load_findings(tuple(source / "findings" for source in sources))
    made = pages.pages(found.values())
    if paths.suites() in sources:
        shipped = paths.suites()
        rows = published.load(shipped / "claims.toml")
        made["claims.md"] = published.page(rows, found, load_commands(shipped / "commands.toml"))
    _write(folder, made)


def _write(folder: Path, made: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        paths.write(folder / name, text)
    print(f"{len(made)} pages in {folder}" if len(made) > 1 else f"{', '.join(made)} in {folder}")


def catalogues() -> dict[str, Catalogue]:
    """Return every shipped catalogue, by the name of its backend or engine."""
    own = {**diagnosis_signatures.engine_files(), **backends.signature_files()}
    made = {name: diagnosis_signatures.load(path) for name, path in sorted(own.items())}
    return {**made, "every engine": diagnosis_signatures.common()}


def published_commands() -> str:
    """Return the page that compares the published commands with the rendered ones."""
    known = deployment.load_all((paths.suites() / "deployments",))
    pairs = {
        name: (backends.named(one.backend), one) for name, one in known.items() if one.backend in registry.BACKENDS
    }
    return commands_page(load_commands(paths.suites() / "commands.toml"), pairs)
