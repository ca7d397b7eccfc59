"""The kubernetes launcher with a real API server. Needs ``.ci/kube-apiserver``. Not part of a bare ``pytest``."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pytest_longctx.launchers.kubernetes.object_cleanup import EXPIRES, RUN_LABEL, path_of
from tests.external.kubernetes.conftest import command, miniature, until

pytestmark = pytest.mark.usefixtures("nothing_is_left")

LOOK = """
import json
import httpx

def test_it(server, ask, prompt):
    assert ask(prompt(60000), 4).ending == "complete"
    status = httpx.get(f"{server.url}/v1/models", trust_env=False).status_code
    print("SEEN", json.dumps({"status": status, "words": dict(server.words), "key": server.secrets[0], "log": str(server.log)}))
"""


def test_a_pod_serves_through_the_api(tmp_path, run, world):
    text, code = run(miniature(tmp_path, "served"), LOOK)
    assert code == 0, text
    seen = json.loads(next(line for line in text.splitlines() if "SEEN {" in line).partition("SEEN ")[2])
    assert seen["status"] == 401  # requests without the key are refused
    assert (seen["words"]["node"], seen["words"]["reached"]) == ("node-a", "port-forward")
    (log,) = (tmp_path / "results" / "boots").glob("*.log")
    assert "Application startup complete" in log.read_text()
    results = tmp_path / "results" / "results.jsonl"
    assert not results.exists() or seen["key"] not in results.read_text()


FINDING = """
import pytest

@pytest.mark.finding("LC-0001")
def test_it(finding, server, ask, prompt, judge):
    print("UP", flush=True)
    assert judge(ask(prompt(1000), 32))
"""


def verdicts(tmp_path):
    """Return every verdict that a run has written."""
    results = tmp_path / "results" / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return [line["verdict"] for line in lines if line["kind"] == "verdict"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "longctx/backoff:1"}, "ImagePullBackOff: Back-off pulling image"),
        ({"table": 'node_selector = { gpu = "h200" }', "boot_s": 3}, "has not started after 3 s: waiting for a node"),
        ({"docker": 'memory_gib = 0.5\nmounts = ["/a:/a", "/b:/a"]'}, "must be unique"),
    ],
    ids=["image", "node", "refused"],
)
def test_what_the_cluster_will_not_run_is_nobodys_finding(tmp_path, run, changes, message):
    text, code = run(miniature(tmp_path, "refused", **changes), FINDING)
    assert code == 1
    assert message in text
    assert "  try  " in text
    assert "Traceback" not in text
    assert verdicts(tmp_path) == []


def test_whoever_may_not_is_told(tmp_path, run, world):
    text, code = run(miniature(tmp_path, "forbidden"), FINDING, KUBECONFIG=world.plane.nobody)
    assert code == 1
    assert "has not made the ConfigMap longctx-forbidden-" in text
    assert "HTTP 403" in text
    assert verdicts(tmp_path) == []


def test_the_documented_role_is_enough(tmp_path, run, world):
    page = (Path(__file__).parents[3] / "docs/how-to/run-on-kubernetes.md").read_text(encoding="utf-8")
    role = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    group, where = "rbac.authorization.k8s.io", "apis/rbac.authorization.k8s.io/v1/namespaces/default"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "longctx"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": role["metadata"]["name"]},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "member"}],
    }
    for plural, made in (("roles", role), ("rolebindings", binding)):
        status, message = world.api.call("POST", f"{where}/{plural}", made)
        assert status == 201, message
    text, code = run(miniature(tmp_path, "allowed"), FINDING, KUBECONFIG=world.plane.member)
    assert code == 0, text
    assert verdicts(tmp_path) == ["holds"]


def test_a_cluster_without_leader_worker_sets_is_said(tmp_path, run):
    path = miniature(tmp_path, "spread", flags='distributed-executor-backend = "ray"')
    path.write_text(path.read_text().replace('hardware = "cpu"', 'hardware = "16xMI300X"'))
    text, code = run(path, FINDING, "--longctx-hardware=16xMI300X")
    assert code == 1
    assert "has not made the LeaderWorkerSet" in text
    assert verdicts(tmp_path) == []


DIES = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]


@pytest.mark.parametrize(
    ("image", "outcome", "message"),
    [
        ("longctx/oom:1", "runs out of memory", "the container's state: OOMKilled"),
        ("longctx/base:1", "dies", "the container's state: not OOMKilled"),
    ],
    ids=["memory limit", "crash"],
)
def test_a_memory_limit_is_told_from_a_crash(tmp_path, run, image, outcome, message):
    path = miniature(tmp_path, "limited", image=image, docker=f"entrypoint = {json.dumps(DIES)}")
    text, code = run(path, FINDING)
    assert code == 1
    assert message in text
    assert f"outcome: {outcome}, wanted serves" in text
    assert verdicts(tmp_path) == ["broken"]


def held(tmp_path, world, deployment, test):
    """Run pytest with one test that prints UP once it has its server."""
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    return subprocess.Popen(
        command(deployment),
        cwd=tmp_path,
        env={**os.environ, "KUBECONFIG": world.plane.admin},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


WAIT = "import time\ndef test_it(server): print('UP', flush=True); time.sleep(60)"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_nothing_outlives_pytest(tmp_path, world, how):
    with held(tmp_path, world, miniature(tmp_path, "leashed"), WAIT) as pytest_:
        assert any("UP" in line for line in pytest_.stdout)
        assert {kind for kind, _ in world.ours()} == {"Pod", "Service", "Secret", "ConfigMap"}
        (owner,) = {each["metadata"]["ownerReferences"][0]["kind"] for each in world.pods()}
        assert owner == "ConfigMap"
        pytest_.send_signal(how)
        pytest_.wait(timeout=40)
    assert until(lambda: world.ours() == [])


def test_a_kill_while_its_objects_are_made_leaves_none(tmp_path, world):
    with held(tmp_path, world, miniature(tmp_path, "early"), WAIT) as pytest_:
        assert until(lambda: world.ours() != [])
        pytest_.kill()
    assert until(lambda: world.ours() == [])


STUCK = 'fault = "never-schedules"'


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("evicted", "Evicted: The node was low on resource: memory."),
        ("probe", "Unhealthy: Container engine failed liveness probe, will be restarted"),
        ("deleted", "another client"),
    ],
)
def test_what_the_cluster_ends_is_nobodys_finding(tmp_path, world, how, message):
    path = miniature(tmp_path, "ended", flags=STUCK)
    path.write_text(path.read_text().replace("admission_s = 2", "admission_s = 20"))
    with held(tmp_path, world, path, FINDING) as pytest_:
        assert any("UP" in line for line in pytest_.stdout)
        (pod,) = world.pods()
        process, _ = world.kubelet.running[pod["metadata"]["uid"]]
        if how == "evicted":
            world.kubelet.status(pod, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
            process.terminate()
        elif how == "probe":
            world.kubelet.event(pod, "Killing", "Container engine failed liveness probe, will be restarted")
            process.kill()
        else:
            world.api.call("DELETE", path_of("Pod", "default", pod["metadata"]["name"]))
        text = pytest_.stdout.read()
        assert pytest_.wait(timeout=60) == 1
    assert message in text
    assert verdicts(tmp_path) == []


def test_a_server_that_dies_mid_prefill_breaks_the_finding(tmp_path, world):
    path = miniature(tmp_path, "killed", flags=STUCK)
    path.write_text(path.read_text().replace("admission_s = 2", "admission_s = 20"))
    with held(tmp_path, world, path, FINDING) as pytest_:
        assert any("UP" in line for line in pytest_.stdout)
        (pod,) = world.pods()
        time.sleep(1.5)  # the request is in prefill by then
        world.kubelet.running[pod["metadata"]["uid"]][0].kill()
        text = pytest_.stdout.read()
        assert pytest_.wait(timeout=60) == 1
    assert "outcome: dies, wanted serves" in text, text
    assert "signal 9 ended the process, which was not out of memory" in text
    assert verdicts(tmp_path) == ["broken"]


def test_what_has_expired_is_swept_and_nothing_else(tmp_path, run, world):
    def left(name, run_id, expires):
        meta = {"name": name, "labels": {RUN_LABEL: run_id}, "annotations": {EXPIRES: str(expires)}}
        status, _ = world.api.call(
            "POST", path_of("ConfigMap", "default"), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
        )
        assert status == 201

    left("old", "a" * 32, 1)
    left("new", "b" * 32, 2**33)
    text, code = run(miniature(tmp_path, "sweeps"))
    assert code == 0, text
    assert world.ours() == [("ConfigMap", "new")]
    world.api.call("DELETE", path_of("ConfigMap", "default", "new"))
