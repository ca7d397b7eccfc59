"""``longctx render``: print the start command or the Kubernetes manifests of a deployment without a start."""

import argparse
import importlib
import inspect
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_longctx import backends, paths, toml
from pytest_longctx.backends import Backend
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.launchers.docker import container
from pytest_longctx.launchers.docker.container_cleanup import RUN_LABEL
from pytest_longctx.launchers.kubernetes import manifests

_FROM_SHELL = "FROM-THE-SHELL"


def add(commands: Any) -> None:
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
    """Return the model name for a rendered command. Unlike `models.locate`, make no model and do not check the path."""
    if one.model.make is not None:
        return str(paths.kept() / "models" / one.model.make)
    return str(Path(one.model.path).expanduser()) if one.model.path else one.model.id or one.model.name


def process(backend: Backend, one: Deployment) -> str:
    """Return the environment variables and the command line with which a process serves the deployment *one*."""
    made = backend.recipe(one, _model_name(one), manifests.port_of(one), "python3")
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in made.env.items()), shlex.join(made.argv)])


def docker(backend: Backend, one: Deployment) -> str:
    """
    Return the ``docker run`` line of the deployment *one*. Variables in ``pass_env`` are taken from the shell that runs
    the line.
    """
    port, inside = manifests.port_of(one), "0.0.0.0"  # noqa: S104 - the port is published on loopback
    listens = "127.0.0.1" if one.docker.network == "host" else inside
    made = backend.recipe(one, _model_name(one), port, one.docker.python, host=listens)
    inherited = dict.fromkeys(made.pass_env, _FROM_SHELL)
    run = container.plan(made, one, _model_name(one), {RUN_LABEL: ""}, {**os.environ, **inherited}, on_this_host=False)
    return run.line().replace(f"={_FROM_SHELL}", "")


def kubernetes(backend: Backend, one: Deployment, namespace: str | None = None) -> str:
    """Return the manifests of the deployment *one* for ``kubectl apply -f -``: YAML if PyYAML is installed, else JSON."""
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
