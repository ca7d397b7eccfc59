"""
A LeaderWorkerSet with a real API server: accepted as it is rendered, served by its leader, and deleted with all its Pods.

Needs ``.ci/kube-apiserver``. The controller of LeaderWorkerSets and Ray are stand-ins; the objects, the launcher and the API are not.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from pytest_longctx.launchers.kubernetes.object_cleanup import path_of
from tests.external.kubernetes import leader_worker_sets
from tests.external.kubernetes.conftest import command, miniature, until
from tests.external.kubernetes.control_plane import KEPT
from tests.unit.launchers.test_kubernetes_manifests import of_shipped

pytestmark = pytest.mark.usefixtures("nothing_is_left")

RAY = """#!{python}
import os, pathlib, sys, time
nodes = pathlib.Path({nodes!r})
(nodes / str(os.getpid())).write_text(" ".join(sys.argv[1:]) + " leader " + os.environ["LWS_LEADER_ADDRESS"])
while "--block" in sys.argv:
    time.sleep(0.1)
"""
MODULE = """import pathlib
def init(where): assert where == "auto"
def nodes(): return [{{"Alive": True}} for _ in pathlib.Path({nodes!r}).iterdir()]
"""


@pytest.fixture
def kind(world):
    if not (KEPT / "serves-custom-resources").exists():
        pytest.skip("this API server ends at the first custom resource: .ci/kube-apiserver builds one that does not")
    with leader_worker_sets.known(world.api):
        yield


@pytest.fixture
def controller(world, kind):
    made = leader_worker_sets.Controller(world.api)
    yield made
    made.stop()


@pytest.fixture
def ray(tmp_path, monkeypatch):
    """Put a stand-in for Ray before all programs and modules; returns the folder with a file for each node that has joined."""
    nodes, programs = tmp_path / "nodes", tmp_path / "programs"
    nodes.mkdir()
    programs.mkdir()
    (programs / "ray").write_text(RAY.format(python=sys.executable, nodes=str(nodes)), encoding="utf-8")
    (programs / "ray").chmod(0o755)
    (programs / "ray.py").write_text(MODULE.format(nodes=str(nodes)), encoding="utf-8")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{programs}:{os.environ.get('PYTHONPATH', '')}")
    return nodes


INTERPRETER = """#!{python}
import os, sys
flag = "--distributed-executor-backend"  # the miniature has no such flag
words = sys.argv[1:]
if flag in words:
    at = words.index(flag)
    del words[at : at + 2]
os.execv(sys.executable, [sys.executable, *words])
"""


def spread(folder):
    """Write a deployment of a miniature that needs two nodes."""
    interpreter = folder / "interpreter"
    interpreter.write_text(INTERPRETER.format(python=sys.executable), encoding="utf-8")
    interpreter.chmod(0o755)
    path = miniature(folder, "spread", flags='distributed-executor-backend = "ray"', python=interpreter)
    path.write_text(path.read_text().replace('hardware = "cpu"', 'hardware = "16xMI300X"'))
    return path


def lost(sent, stored, where=""):
    """Name every field of *sent* that the API server has not *stored* as it was sent."""
    if isinstance(sent, dict):
        for name, value in sent.items():
            yield from lost(value, stored.get(name) if isinstance(stored, dict) else None, f"{where}.{name}")
    elif isinstance(sent, list | tuple) and isinstance(stored, list) and len(sent) == len(stored):
        for place, (one, other) in enumerate(zip(sent, stored, strict=True)):
            yield from lost(one, other, f"{where}[{place}]")
    elif sent != stored:
        yield f"{where}: {sent!r}, stored {stored!r}"


def test_what_is_shipped_for_two_nodes_is_stored_as_it_is_rendered(world, kind):
    found = [each for _, _, made in of_shipped() for each in made if each["kind"] == "LeaderWorkerSet"]
    assert len(found) == 2
    for each in found:
        name = each["metadata"]["name"]
        status, stored = world.api.call("POST", path_of("LeaderWorkerSet", "default"), each)
        assert status == 201, stored
        assert list(lost(json.loads(json.dumps(each)), stored)) == []
        assert world.api.call("DELETE", path_of("LeaderWorkerSet", "default", name))[0] == 200


def test_a_set_of_a_wrong_kind_is_refused(world, kind):
    made = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "wrong"},
        "spec": {"replicas": "one", "leaderWorkerTemplate": {"workerTemplate": {}}},
    }
    status, answer = world.api.call("POST", path_of("LeaderWorkerSet", "default"), made)
    assert status == 422, answer
    assert "spec.replicas" in answer["message"]


SERVED = """
def test_it(server, ask, prompt):
    assert ask(prompt(1000), 4).ending == "complete"
    print("UP", flush=True)
    import time; time.sleep({hold_s})
"""


def test_a_set_serves_through_its_leader_and_leaves_nothing(tmp_path, run, world, controller, ray):
    text, code = run(spread(tmp_path), SERVED.format(hold_s=0), "--longctx-hardware=16xMI300X")
    assert code == 0, text
    names = controller.made
    assert [name.removeprefix(names[0]) for name in names] == ["", "-1"]
    joined = sorted(each.read_text().partition(" leader ")[0] for each in ray.iterdir())
    address = f"{names[0]}.{names[0].removesuffix('-0')}.default"
    assert joined == [f"start --address={address}:6379 --block", "start --head --port=6379"]


def test_a_killed_run_leaves_no_set_and_no_pod(tmp_path, world, controller, ray):
    (tmp_path / "test_it.py").write_text(SERVED.format(hold_s=60), encoding="utf-8")
    words, env = [*command(spread(tmp_path)), "--longctx-hardware=16xMI300X"], {"KUBECONFIG": world.plane.admin}
    with subprocess.Popen(words, cwd=tmp_path, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert any("UP" in line for line in running.stdout)
        assert {kind for kind, _ in world.ours()} >= {"LeaderWorkerSet", "Pod"}
        running.send_signal(signal.SIGKILL)
    assert until(lambda: world.ours() == [])
