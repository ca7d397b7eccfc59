"""
The Pods of one run: their progress, the engine's log, and the way in which the engine ended.

Pods and their events also show why a Pod will never run.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.diagnosis.parsing.lines import LogTail
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.kubernetes.cluster import Cluster
from pytest_longctx.launchers.kubernetes.manifests import LEADER
from pytest_longctx.launchers.log_copy import LogCopy
from pytest_longctx.processes import Candidate
from pytest_longctx.processes.progress import Progress
from pytest_longctx.redaction import mask_file, private, remember, shown

SCHEDULE_S = 180.0
"""
Seconds after which a Pod without a node counts as unschedulable. A cluster that adds nodes reports it within this
time.
"""
MOUNT_S = 60.0
"""Seconds for which a volume may be missing. A claim is often bound shortly after its Pod is created."""
_GROWS = ("TriggeredScaleUp", "Nominated", "NodeClaimCreated")

Object = Mapping[str, Any]


class Remedy(NamedTuple):
    """A reason that a cluster gives for a failure, and its remedy."""

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
        "[docker] python and entrypoint: paths that exist in the image",
    ),
    Remedy("Unschedulable", "node_selector, tolerate and devices_per_node in [kubernetes], and kubectl describe nodes"),
    Remedy(
        "FailedMount|FailedAttachVolume",
        "models in [kubernetes], mounts in [docker]: a path on that node, or a bound claim",
    ),
    Remedy("Evicted|TerminationByKubelet", "memory_gib in [docker]: a Pod that requests its memory is evicted last"),
    Remedy("DeadlineExceeded", "hours in [kubernetes]"),
    Remedy("Unhealthy", "timeouts.boot_s, which sets the time limits of the probes"),
    Remedy(
        "OutOf.*|UnexpectedAdmissionError|Allocate.*",
        "kubectl describe node: its device plugin advertises devices that it does not have",
    ),
)
_WAITS = re.compile(
    "ImagePullBackOff|ErrImageNeverPull|InvalidImageName|CreateContainer(Config)?Error|RunContainerError"
)
"""Reasons for which the kubelet retries without success. ErrImagePull is the first of several attempts."""
_UNSTARTED = ("StartError", "ContainerCannotRun")


@dataclass(frozen=True, slots=True)
class Seen:
    """The state of the Pods at one time."""

    doing: str
    """Progress of the Pods, as text."""
    started: bool = False
    """Whether the engine's container has started, and thus has a log."""
    exit_code: int | None = None
    oom_killed: bool | None = None
    trouble: str = ""
    """The cluster's reason why the Pod will never run."""
    remedy: str = ""
    leader: str | None = None
    """The Pod that serves."""
    node: str = ""
    image: str = ""
    """The image by its digest, if the node reports it."""


def look(pods: Sequence[Object], events: Sequence[Object], waited_s: float) -> Seen:
    """
    Return the state of *pods* of one run at *waited_s* seconds after their creation, from their status and *events*.

    Raises `LaunchError` for data that is no Pod or event.
    """
    try:
        return _look(pods, events, waited_s)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        raise LaunchError(
            f"the cluster's description of the Pod is invalid ({type(problem).__name__}: {problem})"[:_MOST_SAID]
        ) from None


_MOST_SAID = 300


def _look(pods: Sequence[Object], events: Sequence[Object], waited_s: float) -> Seen:
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
    """Yield reason and message of all faults of one Pod, the most certain first."""
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
        yield "Deleted", f"the Pod {name} is being deleted by another client"
    for event in about:
        if event.get("reason") == "Killing" and "probe" in event.get("message", ""):
            yield "Unhealthy", event["message"]
    yield from _of_boxes(boxes, about)
    if not boxes or any("waiting" in box.get("state", {}) for box in boxes):
        yield from _patient(status, about, waited_s)


def _of_boxes(boxes: Sequence[Object], about: Sequence[Object]) -> Iterator[tuple[str, str]]:
    """Yield reason and message of the Pod's containers that will never run."""
    for box in boxes:
        state = box.get("state", {})
        waiting, over = state.get("waiting") or {}, state.get("terminated") or {}
        if _WAITS.fullmatch(waiting.get("reason") or ""):
            yield waiting["reason"], waiting.get("message") or _last(about, "Failed")
        if over.get("reason") in _UNSTARTED:
            yield over["reason"], over.get("message", "")


def _patient(status: Object, about: Sequence[Object], waited_s: float) -> Iterator[tuple[str, str]]:
    """Yield those faults of a Pod that may resolve by themselves, after their time limit."""
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


_LOOK_S = 0.5
_LOST_S = 30.0
"""
Seconds without an answer of the API after which Pods count as lost. Within this time, the API may restart, or an
address lease may expire.
"""
_SETTLE_S = 15.0
"""Most seconds until a cluster records a container's exit after its log or a connection ended."""
_LAST_LINES_S = 1.0
"""Most seconds for the last lines of a log after the Pod was removed."""


class Pods(Candidate):
    """The Pods of one run. One thread polls their state, and one copies the leader's log."""

    ours = True

    def __init__(self, cluster: Cluster, run_id: str, log: Path, again: str, secrets: tuple[str, ...]) -> None:
        self.secrets, self.again = secrets, again
        remember(secrets)
        self.log: Path = log
        self.started_s = self._made_s = time.monotonic()
        self.seen = Seen("waiting for its Pod")
        self.lost = ""
        """The reason why the Pods can no longer be observed; empty if they can."""
        self._cluster, self._run_id = cluster, run_id
        self._stop, self._log_over = threading.Event(), threading.Event()
        self._copying = False
        private(log)
        self._lines = LogTail(log)
        threading.Thread(target=self._watch, daemon=True).start()

    def await_start(self, launch: Launch) -> None:
        """
        Wait until the engine's container in the Pods has started. Raises `LaunchError` with the cluster's
        reason if it cannot.
        """
        most_s, name = launch.deployment.timeouts.boot_s, launch.deployment.name
        while not self.seen.started:
            waited_s = time.monotonic() - self._made_s
            self._complain()
            if waited_s > most_s:
                raise self._error(f"the Pod of {name} has not started after {most_s:.0f} s: {self.seen.doing}", "")
            launch.watch(Progress(f"pod {name}", self.seen.doing, waited_s, most_s))
            time.sleep(_LOOK_S / 5)
        # The time to find a node and to pull an image does not count as boot time.
        self.started_s = time.monotonic()
        self._copying = True
        threading.Thread(target=self._copy, daemon=True).start()

    def _watch(self) -> None:
        heard_s = time.monotonic()
        while not self._stop.wait(_LOOK_S):
            before, why = self.seen, ""
            quiet = before.started and before.exit_code is None
            try:
                pods = self._cluster.pods(self._run_id)
                events = (
                    [] if quiet else [each for pod in pods for each in self._cluster.events(pod["metadata"]["name"])]
                )
                self.seen = look(pods, events, time.monotonic() - self._made_s)
            except (OSError, LaunchError) as problem:
                why = str(problem)
            if why and time.monotonic() - heard_s > _LOST_S:
                self.lost = why
                return
            if why:
                continue
            heard_s = time.monotonic()
            if before.leader is not None and self.seen.leader is None:
                self.lost = "another client deleted the Pod"
                return

    def _copy(self) -> None:
        """
        Copy the log of the leader's Pod into the file. After a broken stream, start again and skip the part that the
        file has.
        """
        written = 0
        with LogCopy(self.log) as out:
            while not self._stop.is_set() and not self.lost and self.seen.leader is not None:
                ended = self.seen.exit_code is not None
                skip = written
                try:
                    for chunk in self._cluster.follow(self.seen.leader):
                        new = chunk[skip:]
                        skip = max(0, skip - len(chunk))
                        out.write(new)
                        written += len(new)
                except OSError:
                    pass
                if ended:
                    break
                self._stop.wait(_LOOK_S)
        self._log_over.set()

    def _error(self, said: str, remedy: str) -> LaunchError:
        rows = [said, *([f"  log      {self.log}"] if self.log.stat().st_size else [])]
        return LaunchError(shown("\n".join([*rows, f"  try      {remedy or self.again}"]), self.secrets))

    def _complain(self) -> None:
        if self.seen.trouble:
            raise self._error(f"the cluster did not run the Pod: {self.seen.trouble}", self.seen.remedy)
        if self.lost:
            raise self._error(f"the Pod was lost: {self.lost}", "kubectl get events")

    def exit_code(self) -> int | None:
        """
        Return the exit code of the engine in the Pods; None while the engine runs. Raises `LaunchError` for a failure
        of the cluster.
        """
        self._complain()
        if self.seen.exit_code is None:
            return None
        self._log_over.wait(_SETTLE_S)
        return self.seen.exit_code

    def oom_killed(self) -> bool | None:
        """Return whether the Pod's memory limit ended the engine; None while the engine runs."""
        return self.seen.oom_killed

    def new_lines(self) -> Iterator[str]:
        """
        Yield the complete lines of the Pod's log since the last call, and after the engine's exit also an incomplete
        last line.
        """
        return self._lines.more(ended=self._log_over.is_set())

    def ended(self, wait_s: float) -> Evidence | None:
        """
        Return how the Pod ended; None if it still runs after *wait_s* seconds. Raises `LaunchError` for a failure of
        the cluster.
        """
        end = time.monotonic() + wait_s
        while self.seen.exit_code is None and not self.seen.trouble and not self.lost and time.monotonic() < end:
            time.sleep(_LOOK_S / 5)
        time.sleep(2 * _LOOK_S)  # an eviction is recorded with the exit code, or a moment later
        return super().ended(0.0)

    def close(self) -> None:
        """Stop polling after the Pods were removed."""
        self._stop.set()
        if self._copying:
            self._log_over.wait(_LAST_LINES_S)
        self._lines.close()
        mask_file(self.log, self.secrets)
