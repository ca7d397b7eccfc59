"""The specification of a Pod for a deployment, as plain data. Pure: no cluster is asked."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_longctx.backends import Backend, Recipe
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers.docker.container import CACHE_INSIDE
from pytest_longctx.launchers.process import GRACE_S

PORT = 8000
"""A Pod has its own address, so the port may be the same everywhere."""
KEY = "$(LONGCTX_API_KEY)"
"""What stands for the API key until the kubelet puts it in."""
KEY_IN_SECRET = "api-key"  # noqa: S105 - what it is called there
_OFTEN_S, _SELDOM_S = 10, 30


class Plugin(NamedTuple):
    """How a cluster counts accelerators of one make."""

    kinds: tuple[str, ...]
    resource: str
    per_node: int
    """On the usual host."""
    security: Mapping[str, Any] = {}
    """Of the Pod, so that its processes may use them."""


PLUGINS = (
    Plugin(
        ("MI300X", "MI325X", "MI355X"),
        "amd.com/gpu",
        8,
        {"seccompProfile": {"type": "Unconfined"}, "supplementalGroups": [44]},  # 44: video, whose /dev/kfd is
    ),
    Plugin(("trn1", "trn2"), "aws.amazon.com/neuron", 16),
    Plugin(("cpu",), "", 1),
)
"""Every other kind is NVIDIA's."""
NVIDIA = Plugin((), "nvidia.com/gpu", 8)


class Share(NamedTuple):
    """What one Pod of a deployment has of its accelerators."""

    plugin: Plugin
    devices: int
    nodes: int


def share(one: Deployment) -> Share:
    """How the hardware of *one* is spread over nodes. Raises `LaunchError` where it cannot be spread evenly."""
    needs = Hardware.parse(one.hardware) if one.hardware else Hardware("cpu")
    plugin = next((row for row in PLUGINS if needs.kind in row.kinds), NVIDIA)
    if not plugin.resource:
        return Share(plugin, 0, 1)
    most = one.kubernetes.devices_per_node or plugin.per_node
    nodes = math.ceil(needs.count / most)
    if needs.count % nodes:
        raise LaunchError(
            f"{one.name} needs {needs}, which {nodes} nodes of up to {most} cannot share evenly\n"
            "  try      devices_per_node in the deployment's [kubernetes]"
        )
    return Share(plugin, needs.count // nodes, nodes)


def recipe(backend: Backend, one: Deployment, model: str) -> Recipe:
    """How the engine is started inside a Pod, with `KEY` in place of its key. Raises `LaunchError`."""
    if backend.host_flag is None:
        raise LaunchError(f"--backend={backend.name} cannot be told where to listen (host_flag), which a Pod needs")
    if one.image is None:
        raise LaunchError(f'{one.name} names no container image\n  try      image = "NAME:TAG" in the deployment')
    port = int(one.flags.get("port", PORT))
    return backend.recipe(one, model, port, one.docker.python, host="0.0.0.0", key=KEY)  # noqa: S104 - inside the Pod


def has_key(made: Recipe) -> bool:
    """Whether the engine can be made to ask for a key."""
    return KEY in made.argv or KEY in made.env.values()


def spec(backend: Backend, one: Deployment, made: Recipe, model: str, key_secret: str) -> dict[str, Any]:
    """A Pod's specification for *made*: everything but whose it is and what becomes of it when it ends."""
    has, table = share(one), one.kubernetes
    volumes, mounts, where = zip(*_volumes(one, model), strict=True)
    words = tuple(literal(word) for word in (*one.docker.entrypoint, *made.argv))
    container = {
        "name": "engine",
        "image": one.image,
        "command": [words[0]],
        "args": list(words[1:]),
        "env": list(_env(one, made, {name: value for each in where for name, value in each.items()}, key_secret)),
        "ports": [{"name": "http", "containerPort": made.port}],
        "resources": _resources(one, has),
        "volumeMounts": list(mounts),
        "securityContext": {"allowPrivilegeEscalation": False},
        **probes(backend.health, made.port, one),
    }
    optional = {
        "nodeSelector": table.node_selector,
        "tolerations": [{"key": key, "operator": "Exists"} for key in table.tolerate],
        "runtimeClassName": table.runtime_class,
        "securityContext": dict(has.plugin.security),
    }
    return {
        "automountServiceAccountToken": False,
        # Or a Service called vllm gives the engine a VLLM_PORT that is no port.
        "enableServiceLinks": False,
        # Or the engine is process 1, which no signal ends unless it asks for it, and which inherits what its workers leave.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": int(GRACE_S),
        **{name: value for name, value in optional.items() if value},
        "containers": [container],
        "volumes": list(volumes),
    }


def literal(word: str) -> str:
    """
    *word* so that the kubelet leaves it as it is.

    >>> literal("$(date) costs $5"), literal(KEY)
    ('$$(date) costs $5', '$(LONGCTX_API_KEY)')
    """
    return word if word == KEY else re.sub(r"\$(?=[($])", "$$", word)


def probes(health: str, port: int, one: Deployment) -> dict[str, Any]:
    """
    More patient than the launcher itself, and than the longest prompt: some engines answer no health check meanwhile.

    Patience is ``periodSeconds`` x ``failureThreshold``.
    """
    boot_s = max(one.timeouts.boot_s, 2 * (one.timeouts.usual_boot_s or 0))
    longest_s = max(boot_s, one.timeouts.request_s(one.max_model_len or 0, 0))

    def every(period_s: int, patience_s: float) -> dict[str, Any]:
        return {
            "httpGet": {"path": health, "port": port},
            "periodSeconds": period_s,
            "timeoutSeconds": period_s,
            "failureThreshold": math.ceil(patience_s / period_s) + 1,
        }

    return {
        "startupProbe": every(_OFTEN_S, boot_s),
        "readinessProbe": every(_OFTEN_S, longest_s),
        "livenessProbe": every(_SELDOM_S, longest_s),
    }


def _env(one: Deployment, made: Recipe, where: Mapping[str, str], key_secret: str) -> Iterator[dict[str, Any]]:
    if KEY in made.argv:
        yield _from_secret(KEY[2:-1], key_secret, KEY_IN_SECRET)
    yield from (
        _from_secret(name, one.kubernetes.secret, name, optional=True) for name in made.pass_env if name not in made.env
    )
    for name, value in {"PYTHONUNBUFFERED": "1", **where, **made.env}.items():
        if value == KEY:
            yield _from_secret(name, key_secret, KEY_IN_SECRET)
        else:
            yield {"name": name, "value": literal(value)}


def _from_secret(name: str, secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    chosen: dict[str, Any] = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": name, "valueFrom": {"secretKeyRef": chosen}}


def _resources(one: Deployment, has: Share) -> dict[str, Any]:
    limits = {has.plugin.resource: str(has.devices)} if has.devices else {}
    if one.docker.memory_gib is not None:
        limits["memory"] = quantity(one.docker.memory_gib)
    # A Pod that asks for less than its limit is the first to be evicted.
    return {"limits": limits, "requests": dict(limits)} if limits else {}


def quantity(gib: float) -> str:
    """
    So many GiB as Kubernetes writes them.

    >>> quantity(10), quantity(0.5)
    ('10Gi', '512Mi')
    """
    return f"{gib:.0f}Gi" if gib == int(gib) else f"{math.ceil(gib * 1024)}Mi"


def _volumes(one: Deployment, model: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, str]]]:
    """Volume, mount, and the variables that tell the engine of it."""
    shm = {"medium": "Memory", "sizeLimit": quantity(one.docker.shm_gib)}
    yield {"name": "shm", "emptyDir": shm}, {"name": "shm", "mountPath": "/dev/shm"}, {}  # noqa: S108
    folder = Path(model)
    if folder.is_absolute():
        # The files of a snapshot are links into the repository's own folder in the cache.
        whole = str(folder.parents[1] if folder.parent.name == "snapshots" else folder)
        volume = _source(one.kubernetes.models or whole)
        yield {"name": "model", **volume}, {"name": "model", "mountPath": whole, "readOnly": True}, {}
    elif one.model.id is not None:
        volume = _source(one.kubernetes.models) if one.kubernetes.models else {"emptyDir": {}}
        way = {"readOnly": True} if one.env.get("HF_HUB_OFFLINE") == "1" else {}
        mount = {"name": "model", "mountPath": CACHE_INSIDE, **way}
        yield {"name": "model", **volume}, mount, {"HF_HOME": CACHE_INSIDE}
    for n, text in enumerate(one.docker.mounts):
        host, inside, how = (*text.split(":"), "")[:3]
        way = {"readOnly": True} if how == "ro" else {}
        source = {"hostPath": {"path": str(Path(host).expanduser())}}
        yield {"name": f"mount-{n}", **source}, {"name": f"mount-{n}", "mountPath": inside, **way}, {}


def _source(where: str) -> dict[str, Any]:
    if where.startswith("/"):
        return {"hostPath": {"path": where, "type": "Directory"}}
    return {"persistentVolumeClaim": {"claimName": where}}
