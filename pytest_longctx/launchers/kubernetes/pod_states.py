"""What the Pods of a run and the events about them say: how far they are, how the engine ended, why nothing can come of it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pytest_longctx.launchers.kubernetes.manifests import LEADER

SCHEDULE_S = 180.0
"""How long a Pod may find no node before that is said: a cluster that grows says so within this time."""
MOUNT_S = 60.0
"""How long a volume may be missing: a claim is often bound a moment later."""
_GROWS = ("TriggeredScaleUp", "Nominated", "NodeClaimCreated")

Object = Mapping[str, Any]


class Remedy(NamedTuple):
    """What a cluster calls some trouble, and what to do about it."""

    reason: str
    """A pattern."""
    remedy: str


REMEDIES = (
    Remedy(
        "ErrImage.*|ImagePullBackOff|InvalidImageName|ImageInspectError|RegistryUnavailable",
        "the image's name and tag, and an imagePullSecret of the namespace's default service account",
    ),
    Remedy("CreateContainerConfigError", "the Secrets it refers to: kubectl get secrets, and longctx render"),
    Remedy(
        "CreateContainerError|RunContainerError|StartError|ContainerCannotRun",
        "[docker] python and entrypoint: what the image has, by its path",
    ),
    Remedy("Unschedulable", "node_selector, tolerate and devices_per_node in [kubernetes], and kubectl describe nodes"),
    Remedy(
        "FailedMount|FailedAttachVolume",
        "models in [kubernetes], mounts in [docker]: what that node has, or a claim that is bound",
    ),
    Remedy("Evicted|TerminationByKubelet", "memory_gib in [docker]: a Pod that asks for its memory is evicted last"),
    Remedy("DeadlineExceeded", "hours in [kubernetes]"),
    Remedy("Unhealthy", "timeouts.boot_s, from which the probes have their patience"),
    Remedy(
        "OutOf.*|UnexpectedAdmissionError|Allocate.*",
        "kubectl describe node: its device plugin says it has what it has not",
    ),
)
_WAITS = re.compile(
    "ImagePullBackOff|ErrImageNeverPull|InvalidImageName|CreateContainer(Config)?Error|RunContainerError"
)
"""Reasons for which the kubelet tries again and again, and nothing will change; ErrImagePull is the first try of several."""
_UNSTARTED = ("StartError", "ContainerCannotRun")


@dataclass(frozen=True, slots=True)
class Seen:
    """One look."""

    doing: str
    """How far it is, in words."""
    started: bool = False
    """Whether the engine's container has started, and so has a log."""
    exit_code: int | None = None
    oom_killed: bool | None = None
    trouble: str = ""
    """Why nothing can come of it, for which no engine is to blame."""
    remedy: str = ""
    leader: str | None = None
    """The Pod that serves."""
    node: str = ""
    image: str = ""
    """By its digest, where the node knows it."""


def look(pods: Sequence[Object], events: Sequence[Object], waited_s: float) -> Seen:
    """What *pods* of one run and *events* about them come to, *waited_s* after they were made."""
    if not pods:
        return Seen("waiting for its Pod")
    ordered = sorted(pods, key=lambda pod: not _leads(pod))
    first, status = ordered[0], ordered[0].get("status", {})
    box: Object = next(iter(status.get("containerStatuses") or []), {})
    state, before = box.get("state", {}), box.get("lastState", {})
    ended = state.get("terminated") or before.get("terminated")
    trouble = next((found for pod in ordered for found in _troubles(pod, events, waited_s)), None)
    return Seen(
        doing=_doing(status, state),
        started=ended is not None or state.get("running") is not None,
        exit_code=None if ended is None else int(ended["exitCode"]),
        oom_killed=None if ended is None else ended.get("reason") == "OOMKilled",
        trouble="" if trouble is None else f"{trouble[0]}: {trouble[1]}".rstrip(": "),
        remedy="" if trouble is None else _remedy(trouble[0], first),
        leader=str(first["metadata"]["name"]) if _leads(first) else None,
        node=str(first.get("spec", {}).get("nodeName") or ""),
        image=str(box.get("imageID") or ""),
    )


def _leads(pod: Object) -> bool:
    labels = pod["metadata"].get("labels", {})
    (name, index), *_ = LEADER.items()
    return bool(labels.get(name, index) == index)


def _doing(status: Object, state: Object) -> str:
    if not _is_scheduled(status):
        return "waiting for a node"
    if waiting := state.get("waiting"):
        return f"on its node: {waiting.get('reason') or 'waiting'}"
    return "running" if state.get("running") is not None else str(status.get("phase", "made")).lower()


def _is_scheduled(status: Object) -> bool:
    return any(each["type"] == "PodScheduled" and each["status"] == "True" for each in status.get("conditions") or [])


def _troubles(pod: Object, events: Sequence[Object], waited_s: float) -> Iterator[tuple[str, str]]:
    """Reason and message of everything that is wrong with one Pod, the surest first."""
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    about = [each for each in events if each.get("involvedObject", {}).get("name") == name]
    boxes = status.get("containerStatuses") or []
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            yield condition.get("reason", "Evicted"), condition.get("message", "")
    ended = any(box.get("state", {}).get("terminated") for box in boxes)
    if status.get("phase") == "Failed" and status.get("reason") and (not ended or status["reason"] != "Error"):
        yield status["reason"], status.get("message", "")
    if "deletionTimestamp" in pod["metadata"]:
        yield "Deleted", f"somebody else deletes the Pod {name}"
    for event in about:
        if event.get("reason") == "Killing" and "probe" in event.get("message", ""):
            yield "Unhealthy", event["message"]
    yield from _of_boxes(boxes, about)
    if not boxes or any("waiting" in box.get("state", {}) for box in boxes):
        yield from _patient(status, about, waited_s)


def _of_boxes(boxes: Sequence[Object], about: Sequence[Object]) -> Iterator[tuple[str, str]]:
    """Containers that never come to run."""
    for box in boxes:
        state = box.get("state", {})
        waiting, over = state.get("waiting") or {}, state.get("terminated") or {}
        if _WAITS.fullmatch(waiting.get("reason") or ""):
            yield waiting["reason"], waiting.get("message") or _last(about, "Failed")
        if over.get("reason") in _UNSTARTED:
            yield over["reason"], over.get("message", "")


def _patient(status: Object, about: Sequence[Object], waited_s: float) -> Iterator[tuple[str, str]]:
    """What may still mend itself, once that has had its time."""
    may_grow = waited_s <= SCHEDULE_S or any(event.get("reason") in _GROWS for event in about)
    for condition in status.get("conditions") or []:
        if condition.get("reason") == "Unschedulable" and condition["status"] == "False" and not may_grow:
            yield "Unschedulable", condition.get("message", "")
    for reason in ("FailedMount", "FailedAttachVolume"):
        if waited_s > MOUNT_S and (said := _last(about, reason)):
            yield reason, said


def _last(about: Sequence[Object], reason: str) -> str:
    return next((str(each.get("message", "")) for each in reversed(about) if each.get("reason") == reason), "")


def _remedy(reason: str, pod: Object) -> str:
    known = next((row.remedy for row in REMEDIES if re.fullmatch(row.reason, reason)), None)
    return known or f"kubectl describe pod {pod['metadata']['name']}"
