"""States of Pods as written by kubelets and schedulers, and their explanation to the user."""

import json
import subprocess
import sys

import pytest

from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers.kubernetes import KubernetesLauncher
from pytest_longctx.launchers.kubernetes.cluster import Cluster
from pytest_longctx.launchers.kubernetes.manifests import LEADER
from pytest_longctx.launchers.kubernetes.pods import MOUNT_S, REMEDIES, SCHEDULE_S, look

BOUND = {"type": "PodScheduled", "status": "True"}
FULL = "0/9 nodes are available: 9 Insufficient nvidia.com/gpu."
NOWHERE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": FULL}


def pod(state=None, phase="Pending", conditions=(BOUND,), labels=None, name="p", box=None, meta=None, **status):
    boxes = [{"name": "engine", "state": state, **(box or {})}] if state else []
    return {
        "metadata": {"name": name, "labels": labels or {}, **(meta or {})},
        "spec": {"nodeName": "node-a"},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": boxes, **status},
    }


def event(reason, message, name="p"):
    return {"involvedObject": {"name": name}, "reason": reason, "message": message}


def waiting(reason, message=""):
    return {"waiting": {"reason": reason, "message": message}}


def over(code, reason="Error"):
    return {"terminated": {"exitCode": code, "reason": reason}}


@pytest.mark.parametrize(
    ("one", "events", "waited_s", "message"),
    [
        (pod(waiting("ImagePullBackOff", "Back-off pulling image")), [], 1, "ImagePullBackOff: Back-off pulling image"),
        (pod(waiting("ErrImagePull", "not found")), [], 1, ""),  # the kubelet retries
        (pod(waiting("InvalidImageName")), [event("Failed", "couldn't parse")], 1, "InvalidImageName: couldn't parse"),
        (
            pod(waiting("CreateContainerConfigError", 'secret "k" not found')),
            [],
            1,
            'CreateContainerConfigError: secret "k"',
        ),
        (pod(over(128, "StartError"), "Failed"), [], 1, "StartError"),
        (pod(conditions=[NOWHERE]), [], SCHEDULE_S - 1, ""),
        (pod(conditions=[NOWHERE]), [], SCHEDULE_S + 1, f"Unschedulable: {FULL}"),
        (pod(conditions=[NOWHERE]), [event("TriggeredScaleUp", "pod triggered scale-up")], SCHEDULE_S + 1, ""),
        (pod(waiting("ContainerCreating")), [event("FailedMount", "hostPath type check failed")], MOUNT_S - 1, ""),
        (
            pod(waiting("ContainerCreating")),
            [event("FailedMount", "is not a dir")],
            MOUNT_S + 1,
            "FailedMount: is not a dir",
        ),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), [], 1, "Evicted: low on memory"),
        (pod(over(137), "Failed", reason="Evicted", message="low on memory"), [], 1, "Evicted: low on memory"),
        (pod(phase="Failed", reason="DeadlineExceeded", message="Pod was active"), [], 1, "DeadlineExceeded: Pod was"),
        (pod(phase="Failed", reason="OutOfnvidia.com/gpu", message="no gpu"), [], 1, "OutOfnvidia.com/gpu: no gpu"),
        (
            pod(
                over(143),
                conditions=[
                    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "m"}
                ],
            ),
            [],
            1,
            "PreemptionByScheduler: m",
        ),
        (
            pod({"running": {}}, meta={"deletionTimestamp": "now"}),
            [],
            1,
            "Deleted: the Pod p is being deleted by another client",
        ),
        (
            pod(over(137), "Failed"),
            [event("Killing", "Container engine failed startup probe")],
            1,
            "Unhealthy: Container",
        ),
        (pod({"running": {}}, "Running"), [event("Unhealthy", "Startup probe failed: connection refused")], 1, ""),
        (pod({"running": {}}, "Running"), [event("Killing", "failed liveness probe", name="other")], 1, ""),
        (pod(over(1), "Failed"), [], 1, ""),
    ],
)
def test_trouble_that_no_engine_is_to_blame_for(one, events, waited_s, message):
    seen = look([one], events, waited_s)
    assert seen.trouble.startswith(message)
    assert bool(seen.trouble) is bool(message)
    assert bool(seen.remedy) is bool(message)


@pytest.mark.parametrize(
    ("state", "code", "oom"),
    [
        ({"running": {"startedAt": "now"}}, None, None),
        (over(0, "Completed"), 0, False),
        (over(1), 1, False),
        (over(137), 137, False),
        (over(137, "OOMKilled"), 137, True),
    ],
)
def test_how_the_engine_ended(state, code, oom):
    seen = look([pod(state)], [], 1)
    assert (seen.started, seen.exit_code, seen.oom_killed) == (True, code, oom)


def test_a_container_that_was_started_again_has_ended():
    """If a controller owns the Pod, the kubelet restarts the container."""
    seen = look([pod({"running": {}}, box={"lastState": over(137, "OOMKilled")})], [], 1)
    assert (seen.exit_code, seen.oom_killed) == (137, True)


@pytest.mark.parametrize(
    ("pods", "doing", "started"),
    [
        ([], "waiting for its Pod", False),
        ([pod(conditions=[])], "waiting for a node", False),
        ([pod(waiting("ContainerCreating"))], "on its node: ContainerCreating", False),
        ([pod({"running": {}}, "Running")], "running", True),
    ],
)
def test_how_far_it_is(pods, doing, started):
    seen = look(pods, [], 1)
    assert (seen.doing, seen.started, seen.trouble) == (doing, started, "")


def test_a_worker_can_be_in_trouble_but_the_leader_serves():
    ((name, _),) = LEADER.items()
    leader = pod({"running": {}}, "Running", labels=LEADER, name="set-0")
    worker = pod(waiting("ImagePullBackOff", "m"), labels={name: "1"}, name="set-0-1")
    seen = look([worker, leader], [], 1)
    assert (seen.leader, seen.started, seen.trouble) == ("set-0", True, "ImagePullBackOff: m")
    assert look([worker], [], 1).leader is None


def test_every_remedy_is_for_another_reason():
    assert len({row.reason for row in REMEDIES}) == len({row.remedy for row in REMEDIES}) == len(REMEDIES)


def test_the_client_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(LaunchError, match=r"pip install 'pytest-longctx\[kubernetes\]'"):
        Cluster(None)


def test_no_cluster_is_said(monkeypatch, tmp_path):
    pytest.importorskip("kubernetes")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(LaunchError, match="no cluster is configured"):
        Cluster(None)


def test_a_cluster_that_does_not_answer_is_said(monkeypatch, tmp_path):
    pytest.importorskip("kubernetes")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me", "namespace": "serving"}}],
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(LaunchError, match=r"the cluster at http://127\.0\.0\.1:9 does not answer"):
        Cluster(None)


def test_the_launcher_does_not_import_the_client():
    assert KubernetesLauncher("serving").namespace == "serving"
    ask = "import sys; import pytest_longctx.launchers.kubernetes; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
