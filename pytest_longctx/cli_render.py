"""``longctx render``: how a launcher would start a deployment, as text that a team can keep; nothing is started."""

import argparse
import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_longctx import paths, registry, toml
from pytest_longctx.backends import Backend
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.launchers.docker import container
from pytest_longctx.launchers.docker.reaper import RUN_LABEL
from pytest_longctx.launchers.kubernetes import manifests

_FROM_SHELL = "FROM-THE-SHELL"


def add(commands: Any) -> None:
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
