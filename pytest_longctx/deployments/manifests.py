"""Find engine starts in files: a compose file, a task of SkyPilot, or any Kubernetes object with a Pod, in YAML or JSON."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pytest_longctx import paths, toml
from pytest_longctx.deployments.command import Start, count_of, find_all, in_image, size_bytes
from pytest_longctx.deployments.script import expanded, split
from pytest_longctx.errors import UsageError

_DEVICES = ("nvidia.com/gpu", "amd.com/gpu", "aws.amazon.com/neuron", "habana.ai/gaudi")
_KIND_LABELS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "node.kubernetes.io/instance-type")
_IN_POD = re.compile(r"\$\((\w+)\)")
MOST_BYTES = 4 * 1024**2
"""Largest file that is read. Files that start engines are far smaller."""
_DEEPEST: Final = 100
"""Most levels of a file. The schemas of custom resources, which may be in the same file, have some 40."""

_SHOWN = 300
"""Most characters shown of the parser's own message."""


def read(path: Path) -> list[Any]:
    """Return the documents of a manifest at *path*, a compose or Kubernetes file in YAML or JSON. Raises `UsageError`."""
    try:
        with open(path, "rb", opener=paths.without_waiting) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UsageError(
                f"{path}: larger than {MOST_BYTES // 1024**2} MiB, the limit for a file that starts a server"
            )
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: must be a text file: {problem}") from None
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror}") from None
    try:
        found = [json.loads(text)]
    except (ValueError, RecursionError):
        found = _yaml(path, text)
    try:
        toml.refuse_unsound(found, _DEEPEST)
    except ValueError as problem:
        raise UsageError(f"{path}: {problem}") from None
    return found


def _yaml(path: Path, text: str) -> list[Any]:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(
            f"{path}: it is not JSON, and reading YAML needs PyYAML: pip install 'pytest-longctx[kubernetes]'"
        ) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return list(yaml.load_all(text, Loader=loader))
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        said = " ".join(str(problem).split())[:_SHOWN]
        raise UsageError(f"{path}: not valid YAML: {said}") from None


def starts(documents: Sequence[Any], where: str) -> list[Start]:
    """
    Return every engine start in *documents*: of each service of a compose file, each container of each Pod, and each task.

    Raises `UsageError` for a field with a value of a wrong kind.
    """
    try:
        return _starts(documents, where)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as problem:
        said = f"a field has a value of the wrong type ({type(problem).__name__}: {problem})"
        raise UsageError(f"{where}: {said[:_SHOWN]}") from None


def _starts(documents: Sequence[Any], where: str) -> list[Start]:
    found: list[Start] = []
    maps = dict(_maps(documents))
    for document in documents:
        if isinstance(document, Mapping) and isinstance(document.get("services"), Mapping):
            found += _compose(document["services"], where)
        elif isinstance(document, Mapping) and isinstance(document.get("run"), str) and "resources" in document:
            found += _task(document, where)
        else:
            found += _objects(document, where, maps)
    return found


_FORMS: Mapping[str, str] = {
    "InferenceService": "KServe's InferenceService",
    "LLMInferenceService": "KServe's LLMInferenceService",
    "RayService": "KubeRay's RayService",
    "DynamoGraphDeployment": "Dynamo's DynamoGraphDeployment",
    "servingEngineSpec": "values of vLLM's production stack",
    "modelArtifacts": "values of llm-d's charts",
    "applications": "a file of Ray Serve",
}
"""Documents in which a platform says what it starts in its own words, by their kind or a key."""


def form(documents: Sequence[Any]) -> str | None:
    """Return what the first of *documents* is, if a platform starts engines from it by rules of its own; None if not known."""
    tables = (each for each in documents if isinstance(each, Mapping))
    return next(
        (_FORMS[word] for each in tables for word in (str(each.get("kind")), *map(str, each)) if word in _FORMS), None
    )


# SkyPilot.


def _task(task: Mapping[str, Any], where: str) -> Iterator[Start]:
    """Return the engine starts in the script of a task of SkyPilot, on the devices that the task asks for."""
    asked = _at(task, "resources").get("accelerators")
    listed = asked.items() if isinstance(asked, Mapping) else [str(asked or "").partition(":")[::2]]
    (kind, number), *others = listed or [("", "")]
    count = None if others or not kind else count_of(number or 1)
    env = _variables(task.get("envs"))
    if count is not None:
        env["SKYPILOT_NUM_GPUS_PER_NODE"] = str(count)
    for start in find_all(split(task["run"]), env):
        yield replace(
            start,
            where=where,
            gpus=count,
            kind=str(kind) if count else None,
            nodes=count_of(task.get("num_nodes")) or 1,
        )


# Compose.


def _compose(services: Mapping[str, Any], where: str) -> Iterator[Start]:
    for name, service in services.items():
        if not isinstance(service, Mapping):
            continue
        env = {key: expanded(value, {}) for key, value in _variables(service.get("environment")).items()}
        command, first = (_words(service.get(key), env) for key in ("command", "entrypoint"))
        start = in_image(expanded(str(service.get("image", "")), env), first, command, env)
        if start is None:
            continue
        host = service.get("ipc") == "host"
        resources = _at(service, "deploy", "resources")
        yield replace(
            start,
            where=f"{where}, service {name}",
            shm_bytes=float("inf") if host else size_bytes(service.get("shm_size", "")),
            memory_bytes=size_bytes(service.get("mem_limit") or _at(resources, "limits").get("memory", "")),
            gpus=_reserved(_at(resources, "reservations").get("devices")),
        )


def _words(value: Any, env: Mapping[str, str]) -> list[str]:
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError:
            value = value.split()
    words = [str(each) for each in value] if isinstance(value, list | tuple) else []
    return [expanded(word.replace("$$", "$"), env) for word in words]


def _variables(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): _text(each) for name, each in value.items() if each is not None}
    listed = value if isinstance(value, list) else []
    pairs = (str(each).partition("=") for each in listed)
    return {name: text for name, equals, text in pairs if equals}


def _text(value: Any) -> str:
    """Return the value of a variable in a compose file as its text in the environment."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reserved(devices: Any) -> int | None:
    """Return the number of GPUs that a service of a compose file reserves; None if it states no number."""
    for row in devices if isinstance(devices, list) else []:
        if not isinstance(row, Mapping):
            continue
        if isinstance(row.get("device_ids"), list):
            return len(row["device_ids"])
        if (count := count_of(row.get("count"))) is not None:
            return count
    return None


# Kubernetes.


Maps = Mapping[str, Mapping[str, str]]
"""Data of each ConfigMap of a file, by name."""


def _maps(node: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Return the name and the data of each ConfigMap of a file, also of those in a List."""
    for each in node if isinstance(node, list | tuple) else [node]:
        if isinstance(each, Mapping) and each.get("kind") == "ConfigMap":
            yield str(_at(each, "metadata").get("name")), _variables(each.get("data"))
        elif isinstance(each, Mapping) and isinstance(each.get("items"), list):
            yield from _maps(each["items"])


def _objects(node: Any, where: str, maps: Maps, name: str = "", nodes: int = 1) -> Iterator[Start]:
    """Yield the engine starts in every Pod of the Kubernetes object *node*. A LeaderWorkerSet counts once, by its leader."""
    if isinstance(node, list):
        for each in node:
            yield from _objects(each, where, maps, name, nodes)
    if not isinstance(node, Mapping):
        return
    said = _at(node, "metadata").get("name")
    name = f"{node['kind']} {said}" if said and isinstance(node.get("kind"), str) else name
    if isinstance(group := node.get("leaderWorkerTemplate"), Mapping):
        size = group.get("size")
        many = size if isinstance(size, int) and size > 0 else 1
        parts = [
            list(_objects(group.get(key), where, maps, name, many)) for key in ("leaderTemplate", "workerTemplate")
        ]
        yield from next((part for part in parts if part), [])
        return
    if isinstance(node.get("containers"), list):
        yield from (replace(start, nodes=nodes) for start in _pod(node, f"{where}, {name}" if name else where, maps))
        return
    for each in node.values():
        yield from _objects(each, where, maps, name, nodes)


def _pod(spec: Mapping[str, Any], where: str, maps: Maps) -> Iterator[Start]:
    for box in spec["containers"]:
        if not isinstance(box, Mapping):
            continue
        env = _pod_variables(box, maps)
        first, command = (_in_pod(box.get(key), env) for key in ("command", "args"))
        start = in_image(str(box.get("image", "")), first, command, env)
        if start is None:
            continue
        limits = {**_at(box, "resources", "requests"), **_at(box, "resources", "limits")}
        memory = _at(box, "resources", "limits").get("memory")
        yield replace(
            start,
            where=where,
            shm_bytes=_shared(spec, box),
            memory_bytes=None if memory is None else _quantity(memory),
            gpus=next((count for key in _DEVICES if (count := count_of(limits.get(key))) is not None), None),
            kind=_kind(spec),
            raw={"spec": {**spec, "containers": [box]}},
        )


def _quantity(value: Any) -> float | None:
    """Return a quantity of a Kubernetes manifest in bytes: ``128Gi`` is binary, ``128G`` is decimal; None for other text."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMGTP]?)(i?)", str(value).strip())
    if found is None:
        return None
    return float(found[1]) * (1024.0 if found[3] else 1000.0) ** " KMGTP".index(found[2].upper() or " ")


def _pod_variables(box: Mapping[str, Any], maps: Maps) -> dict[str, str]:
    """Return the variables of a container: its own, and those from ConfigMaps of the same file."""
    found: dict[str, str] = {}
    for row in _rows(box.get("envFrom")):
        prefix, data = str(row.get("prefix") or ""), maps.get(str(_at(row, "configMapRef").get("name")), {})
        found |= {prefix + name: value for name, value in data.items()}
    for row in _rows(box.get("env")):
        at = _at(row, "valueFrom", "configMapKeyRef")
        value = maps.get(str(at.get("name")), {}).get(str(at.get("key"))) if at else row.get("value")
        if value is not None:
            found[str(row.get("name"))] = str(value)
    return found


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _in_pod(value: Any, env: Mapping[str, str]) -> list[str]:
    """
    Return the words of a command in a Pod's manifest, with each ``$(VARIABLE)`` replaced by the value that the kubelet
    uses.
    """
    words = value if isinstance(value, list) else []
    return [_IN_POD.sub(lambda found: env.get(found[1], found[0]), str(word)) for word in words]


def _shared(spec: Mapping[str, Any], box: Mapping[str, Any]) -> float | None:
    """
    Return the bytes of a Pod's ``/dev/shm``: infinity without a limit, as with the host's; None for the container's
    default.
    """
    if spec.get("hostIPC") is True:
        return float("inf")
    rows = [row for key in ("volumeMounts",) for row in box.get(key) or [] if isinstance(row, Mapping)]
    mounted = {row.get("name") for row in rows if row.get("mountPath") == "/dev/shm"}  # noqa: S108
    for volume in spec.get("volumes") or []:
        if isinstance(volume, Mapping) and volume.get("name") in mounted:
            limit = _at(volume, "emptyDir").get("sizeLimit")
            return float("inf") if limit is None else _quantity(limit)
    return None


def _kind(spec: Mapping[str, Any]) -> str | None:
    selector = _at(spec, "nodeSelector")
    return next((str(selector[key]) for key in _KIND_LABELS if selector.get(key)), None)


def _at(node: Any, *keys: str) -> Mapping[str, Any]:
    """Return the table at *keys* inside *node* of a manifest; empty if the manifest has none."""
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}
