"""A deployment as Kubernetes objects, in plain data: a Pod and a Service, or a LeaderWorkerSet where it needs several nodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_longctx.backends import Backend
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers.kubernetes import pod_manifest
from pytest_longctx.launchers.kubernetes.reaper import RUN_LABEL

NAME_LABEL = "app.kubernetes.io/instance"
LEADER = {"leaderworkerset.sigs.k8s.io/worker-index": "0"}
"""The label that a LeaderWorkerSet gives the Pod that leads."""
_RAY_PORT = 6379

_JOIN = f'ray start --address="$LWS_LEADER_ADDRESS:{_RAY_PORT}" --block'
_LEAD = f'ray start --head --port={_RAY_PORT} && "$1" -c "$0" && exec "$@"'
"""``$0`` waits for the workers; the rest is the engine's command line, whose first word is the interpreter."""
_WAIT = "import ray, time\nray.init('auto')\nwhile sum(each['Alive'] for each in ray.nodes()) < {nodes}: time.sleep(1)"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose objects these are: nobody's, where a team is to keep them, or one run's."""

    namespace: str | None = None
    run_id: str | None = None
    reference: Mapping[str, str] | None = None
    """The object with which all the others go."""


def name_of(one: Deployment, run_id: str | None) -> str:
    """
    What the objects are called; a Service's name is the narrowest: 63 letters, digits and dashes, a letter first.

    >>> from pytest_longctx.deployments.deployment import attached
    >>> name_of(attached("openai"), "0123456789abcdef")
    'longctx-attached-01234567'
    """
    tail = f"-{run_id[:8]}" if run_id else ""
    # A LeaderWorkerSet's Pods bear its name with a little more after it.
    return "longctx-" + one.name.replace(".", "-")[:40].strip("-") + tail


def key_secret(name: str) -> str:
    """The Secret that has the API key of *name*."""
    return f"{name}-key"


def secrets_to_make(objects: Iterable[Mapping[str, Any]]) -> list[str]:
    """The commands that make the Secrets *objects* refer to, with variables in place of what is secret."""
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


def _variable(key: str) -> str:
    return "LONGCTX_API_KEY" if key == pod_manifest.KEY_IN_SECRET else key


def render(backend: Backend, one: Deployment, model: str, owner: Owner | None = None) -> list[dict[str, Any]]:
    """The objects that serve *one*, with Secrets by reference alone. Raises `LaunchError`."""
    owner = owner or Owner()
    name = name_of(one, owner.run_id)
    made = pod_manifest.recipe(backend, one, model)
    spec = pod_manifest.spec(backend, one, made, model, key_secret(name))
    nodes = pod_manifest.share(one).nodes
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
    """Name, labels and owner of one object."""
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
    """A run's Pod is never started again, for how it ended is what was asked; and it ends by itself some day."""
    if owner.run_id is None:
        return {"restartPolicy": "Always", **spec}
    return {"restartPolicy": "Never", "activeDeadlineSeconds": round(one.kubernetes.hours * 3600), **spec}


def _leader_worker_set(
    one: Deployment, meta: dict[str, Any], spec: dict[str, Any], nodes: int, *, for_run: bool
) -> dict[str, Any]:
    """One group of *nodes* Pods that are one Ray cluster; the first of them runs the engine."""
    if one.flags.get("distributed-executor-backend") != "ray":
        raise LaunchError(
            f"{one.name} needs {nodes} nodes, and only an engine that spreads itself by Ray is rendered for several\n"
            '  try      distributed-executor-backend = "ray" in its [flags]'
        )
    (engine,) = spec["containers"]
    # Which of a node's addresses the others can reach is nothing that Ray or vLLM should have to guess.
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
                # A worker cannot come back into a Ray cluster whose engine has gone on without it.
                "restartPolicy": "None" if for_run else "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": labels, "spec": {**spec, "containers": [leader]}},
                "workerTemplate": {"metadata": labels, "spec": {**spec, "containers": [worker]}},
            },
        },
    }
