"""
A deployment as Kubernetes objects in plain data: a Pod with a Service, or a LeaderWorkerSet for several nodes.

Pure functions: no cluster is contacted.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pytest_longctx.backends import Backend, Recipe
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers.docker.container import CACHE_INSIDE
from pytest_longctx.launchers.kubernetes.object_cleanup import RUN_LABEL
from pytest_longctx.processes import GRACE_S

PORT = 8000
"""The port of the engine. Each Pod has its own address, so all can use the same port."""
KEY = "$(LONGCTX_API_KEY)"
"""A placeholder of the API key, which the kubelet replaces."""
KEY_IN_SECRET = "api-key"  # noqa: S105 - what it is called there
_OFTEN_S, _SELDOM_S = 10, 30


class Plugin(NamedTuple):
    """The name and count of accelerators of one make, as a cluster's device plugin defines them."""

    kinds: tuple[str, ...]
    resource: str
    per_node: int
    """Usual number of devices of one host."""
    security: Mapping[str, Any] = {}
    """Groups of the Pod, whose processes need them to use the devices."""


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
"""Device plugins by kind of hardware. Any other kind is NVIDIA's."""
NVIDIA = Plugin((), "nvidia.com/gpu", 8)


class Share(NamedTuple):
    """The accelerators of each Pod of a deployment."""

    plugin: Plugin
    devices: int
    nodes: int


def share(one: Deployment) -> Share:
    """Return the hardware of *one*, distributed over nodes. Raises `LaunchError` if an even distribution is impossible."""
    needs = one.needs
    plugin = next((row for row in PLUGINS if needs.kind in row.kinds), NVIDIA)
    if not plugin.resource:
        return Share(plugin, 0, 1)
    most = one.kubernetes.devices_per_node or plugin.per_node
    nodes = math.ceil(needs.count / most)
    if needs.count % nodes:
        raise LaunchError(
            f"{one.name} needs {needs}, which cannot be divided evenly over {nodes} nodes of up to {most} devices\n"
            f"  try      set devices_per_node in the deployment's [kubernetes] to a divisor of {needs.count}"
        )
    return Share(plugin, needs.count // nodes, nodes)


def port_of(one: Deployment) -> int:
    """
    Return the port of the manifest: the port in the deployment's flags, else the usual one. Raises `LaunchError` for an
    invalid port.
    """
    port = one.flags.get("port", PORT)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise LaunchError(f"[flags] port of {one.name}: {str(port)[:100]!r} must be a port, an integer from 1 to 65535")
    return port


def recipe(backend: Backend, one: Deployment, model: str) -> Recipe:
    """Return the recipe of the engine inside a Pod, with `KEY` in place of the API key. Raises `LaunchError`."""
    if backend.host_flag is None:
        raise LaunchError(
            f"--backend={backend.name} has no option for the listening address (host_flag), which a Pod needs\n"
            "  try      --longctx-launcher=process, or a backend that sets host_flag"
        )
    if one.image is None:
        raise LaunchError(f'{one.name} names no container image\n  try      image = "NAME:TAG" in the deployment')
    return backend.recipe(one, model, port_of(one), one.docker.python, host="0.0.0.0", key=KEY)  # noqa: S104 - inside the Pod


def has_key(made: Recipe) -> bool:
    """Return whether the engine of a manifest can require an API key."""
    return KEY in made.argv or KEY in made.env.values()


def pod_spec(backend: Backend, one: Deployment, made: Recipe, model: str, key_secret: str) -> dict[str, Any]:
    """Return a Pod's specification for the recipe *made*, without owner and restart policy."""
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
        # Otherwise a Service called vllm sets VLLM_PORT for the engine, and not to a port.
        "enableServiceLinks": False,
        # Otherwise the engine is process 1: a signal ends it only if it has a handler, and it inherits its workers' orphans.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": int(GRACE_S),
        **{name: value for name, value in optional.items() if value},
        "containers": [container],
        "volumes": list(volumes),
    }


def literal(word: str) -> str:
    """
    Return *word* of a manifest, escaped so that the kubelet does not change it.

    >>> literal("$(date) costs $5"), literal(KEY)
    ('$$(date) costs $5', '$(LONGCTX_API_KEY)')
    """
    return word if word == KEY else re.sub(r"\$(?=[($])", "$$", word)


def probes(health: str, port: int, one: Deployment) -> dict[str, Any]:
    """
    Return probes that wait longer than the launcher and the longest prompt: some engines answer no health check during
    a prefill.

    They wait ``periodSeconds`` x ``failureThreshold``.
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
    # A Pod that requests less than its limit is evicted first.
    return {"limits": limits, "requests": dict(limits)} if limits else {}


def quantity(gib: float) -> str:
    """
    Return *gib* as a Kubernetes quantity, such as ``512Mi``.

    >>> quantity(10), quantity(0.5)
    ('10Gi', '512Mi')
    """
    return f"{gib:.0f}Gi" if gib == int(gib) else f"{math.ceil(gib * 1024)}Mi"


def _volumes(one: Deployment, model: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, str]]]:
    """Yield the volume and the mount of the model, with the variables that name the mounted path to the engine."""
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


NAME_LABEL = "app.kubernetes.io/instance"
LEADER = {"leaderworkerset.sigs.k8s.io/worker-index": "0"}
"""The label that a LeaderWorkerSet gives to its leader Pod."""
_RAY_PORT = 6379

_JOIN = f'ray start --address="$LWS_LEADER_ADDRESS:{_RAY_PORT}" --block'
_LEAD = f'ray start --head --port={_RAY_PORT} && "$1" -c "$0" && exec "$@"'
"""
Return the shell command of the leader. ``$0`` waits for the workers; the rest is the engine's command line, interpreter
first.
"""
_WAIT = "import ray, time\nray.init('auto')\nwhile sum(each['Alive'] for each in ray.nodes()) < {nodes}: time.sleep(1)"


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of the Kubernetes objects: one run, or none for objects that a team keeps."""

    namespace: str | None = None
    run_id: str | None = None
    reference: Mapping[str, str] | None = None
    """The object whose deletion deletes all others."""


def name_of(one: Deployment, run_id: str | None) -> str:
    """
    Return the name of the manifest's objects, limited as a Service's name: 63 letters, digits and dashes, a letter
    first.

    >>> from pytest_longctx.deployments.deployment import attached
    >>> name_of(attached("openai"), "0123456789abcdef")
    'longctx-attached-01234567'
    """
    tail = f"-{run_id[:8]}" if run_id else ""
    # A LeaderWorkerSet's Pods have its name with a suffix.
    return "longctx-" + one.name.replace(".", "-")[:40].strip("-") + tail


def key_secret(name: str) -> str:
    """Return the name of the Secret with the API key of *name*."""
    return f"{name}-key"


def secrets_to_make(objects: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the commands that create the Secrets of *objects*, with shell variables instead of secret values."""
    found: dict[str, set[str]] = {}

    def look(part: Any) -> None:
        if isinstance(part, Mapping):
            if chosen := part.get("secretKeyRef"):
                found.setdefault(chosen["name"], set()).add(chosen["key"])
            for each in part.values():
                look(each)
        elif isinstance(part, list):
            for each in part:
                look(each)

    look(list(objects))
    return [
        " ".join(
            [
                f"kubectl create secret generic {name}",
                *(f'--from-literal={key}="${_variable(key)}"' for key in sorted(keys)),
            ]
        )
        for name, keys in found.items()
    ]


def downloads(one: Deployment, objects: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a warning if the Pods of *objects* keep no weights, so that each Pod downloads the model at each start."""
    if '"name": "model", "emptyDir"' not in json.dumps(list(objects)):
        return []
    return [
        f"each Pod downloads {one.model.id} at each start; [kubernetes] models names a claim or a folder that keeps it"
    ]


def _variable(key: str) -> str:
    return "LONGCTX_API_KEY" if key == KEY_IN_SECRET else key


def render(backend: Backend, one: Deployment, model: str, owner: Owner | None = None) -> list[dict[str, Any]]:
    """Return the objects that serve *one*, in which Secrets are only references. Raises `LaunchError`."""
    owner = owner or Owner()
    name = name_of(one, owner.run_id)
    made = recipe(backend, one, model)
    spec = pod_spec(backend, one, made, model, key_secret(name))
    nodes = share(one).nodes
    meta = metadata(name, owner)
    if nodes > 1:
        served = _leader_worker_set(one, meta, spec, nodes, for_run=owner.run_id is not None)
    else:
        served = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": _alone(one, spec, owner)}
    port = {"name": "http", "port": made.port, "targetPort": "http"}
    selector = {NAME_LABEL: name, **(LEADER if nodes > 1 else {})}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, owner),
        "spec": {"type": "ClusterIP", "selector": selector, "ports": [port]},
    }
    return [served, service]


def metadata(name: str, owner: Owner) -> dict[str, Any]:
    """Return name, labels and owner of one object of a manifest."""
    labels = {"app.kubernetes.io/name": "longctx", NAME_LABEL: name}
    if owner.run_id is not None:
        labels[RUN_LABEL] = owner.run_id
    made: dict[str, Any] = {"name": name, "labels": labels}
    if owner.namespace is not None:
        made["namespace"] = owner.namespace
    if owner.reference is not None:
        made["ownerReferences"] = [dict(owner.reference)]
    return made


def _alone(one: Deployment, spec: dict[str, Any], owner: Owner) -> dict[str, Any]:
    """Return the limits of a run's Pod: a deadline, and no restart, because the exit is evidence."""
    if owner.run_id is None:
        return {"restartPolicy": "Always", **spec}
    return {"restartPolicy": "Never", "activeDeadlineSeconds": round(one.kubernetes.hours * 3600), **spec}


def _leader_worker_set(
    one: Deployment, meta: dict[str, Any], spec: dict[str, Any], nodes: int, *, for_run: bool
) -> dict[str, Any]:
    """Return a LeaderWorkerSet with one group of *nodes* Pods as one Ray cluster. The first Pod runs the engine."""
    if one.flags.get("distributed-executor-backend") != "ray":
        raise LaunchError(
            f"{one.name} needs {nodes} nodes, and only an engine that uses Ray is rendered for several nodes\n"
            '  try      distributed-executor-backend = "ray" in its [flags]'
        )
    (engine,) = spec["containers"]
    # Ray and vLLM must not guess which address of a node the others can reach.
    address = {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    both = {**engine, "env": [*engine["env"], address]}
    words = [*engine["command"], *engine["args"]]
    leader = {**both, "command": ["sh"], "args": ["-c", _LEAD, _WAIT.format(nodes=nodes), *words]}
    unprobed = {name: value for name, value in both.items() if name != "ports" and not name.endswith("Probe")}
    worker = {**unprobed, "command": ["sh"], "args": ["-c", _JOIN]}
    labels = {"labels": meta["labels"]}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": meta,
        "spec": {
            "replicas": 1,
            "leaderWorkerTemplate": {
                "size": nodes,
                # A worker cannot rejoin a Ray cluster whose engine continued without it.
                "restartPolicy": "None" if for_run else "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": labels, "spec": {**spec, "containers": [leader]}},
                "workerTemplate": {"metadata": labels, "spec": {**spec, "containers": [worker]}},
            },
        },
    }
