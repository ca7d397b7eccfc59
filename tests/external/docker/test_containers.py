"""
A deployment in a container of a real Docker engine: its options, and its complete removal.

Needs ``.ci/docker-engine``. Not part of a bare ``pytest``.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from pytest_longctx.launchers.docker import SOCKET, container_cleanup
from tests.external.docker.conftest import IMAGE, command, miniature, ours, until

LOOK = """
import json
import httpx
from pytest_longctx.launchers.docker import container_cleanup
from pytest_longctx.launchers.docker import SOCKET

def test_it(server, ask, prompt):
    assert ask(prompt(5000), 4).ending == "complete"
    (container, _), = container_cleanup.labelled(SOCKET, container_cleanup.RUN_LABEL)
    seen = container_cleanup.call(SOCKET, "GET", f"/containers/{container}/json")
    status = httpx.get(f"{server.url}/v1/models", trust_env=False).status_code
    print("SEEN", json.dumps({"status": status, "words": dict(server.words), "key": server.secrets[0], **seen}))
"""


def test_a_container_is_private_and_what_was_asked(tmp_path, run):
    more = "shm_gib = 0.5\nmemory_gib = 0.25\nulimits = {nofile = 4096}\n"
    text, code = run(miniature(tmp_path, "private", docker=more, env='MARK = "here"'), LOOK)
    assert code == 0, text
    seen = json.loads(next(line for line in text.splitlines() if "SEEN {" in line).partition("SEEN ")[2])
    assert seen["status"] == 401  # requests without the key are refused
    (published,) = seen["NetworkSettings"]["Ports"].values()
    assert [each["HostIp"] for each in published] == ["127.0.0.1"]
    assert seen["HostConfig"]["ShmSize"] == 2**29
    assert seen["HostConfig"]["Memory"] == seen["HostConfig"]["MemorySwap"] == 2**28
    assert seen["HostConfig"]["Ulimits"] == [{"Name": "nofile", "Soft": 4096, "Hard": 4096}]
    assert seen["words"]["image"] == seen["Image"]
    names = {each.partition("=")[0] for each in seen["Config"]["Env"]}
    assert names <= {"MARK", "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "VLLM_API_KEY", "VLLM_NO_USAGE_STATS"}
    log, results = tmp_path / "results" / "boots", tmp_path / "results" / "results.jsonl"
    assert any("Application startup complete" in each.read_text() for each in log.glob("*.log"))
    assert not results.exists() or seen["key"] not in results.read_text()


def test_the_shared_network_publishes_nothing(tmp_path, run):
    text, code = run(miniature(tmp_path, "shared", docker='network = "host"'), "def test_it(server): pass")
    assert code == 0, text


def running(tmp_path, deployment, test, env=None):
    """Run pytest with one test that prints UP once it has its server."""
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    return subprocess.Popen(
        command("--backend=miniature", f"--longctx-deployment={deployment}"),
        cwd=tmp_path,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


WAIT = "import time\ndef test_it(server): print('UP', flush=True); time.sleep(60)"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_no_container_outlives_pytest(tmp_path, how):
    with running(tmp_path, miniature(tmp_path, "leashed"), WAIT) as held:
        assert held.stdout is not None
        assert any("UP" in line for line in held.stdout)
        assert len(ours()) == 1
        held.send_signal(how)
        held.wait(timeout=30)
    assert until(lambda: ours() == [])


def test_a_kill_while_the_container_is_made_leaves_none(tmp_path):
    """The create request can still be in progress after its client has been killed."""
    with running(tmp_path, miniature(tmp_path, "early"), WAIT) as held:
        assert until(lambda: ours() != [])
        held.kill()
    assert until(lambda: ours() == [])


def cleanup_processes(run):
    """Return the ids of the cleanup processes of *run*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"docker/container_cleanup.py" in line and run.encode() in line:
            found.append(int(path.parent.name))
    return found


def test_the_next_run_sweeps_up_what_a_dead_one_left_and_nothing_else(tmp_path, run):
    with running(tmp_path, miniature(tmp_path, "left", flags="max-model-len = 4096"), WAIT) as held:
        assert held.stdout is not None
        assert any("UP" in line for line in held.stdout)
        ((container, labels),) = container_cleanup.labelled(SOCKET, container_cleanup.RUN_LABEL)
        standing_by = cleanup_processes(labels[container_cleanup.RUN_LABEL])
        assert len(standing_by) == 1
        os.kill(standing_by[0], signal.SIGKILL)
        # Its owner is alive, so a concurrent run must neither remove nor use it.
        text, code = run(miniature(tmp_path, "beside"))
        assert code == 0, text
        assert ours() == [container]
        held.kill()
    time.sleep(3)  # other mechanisms had enough time to remove it
    assert ours() == [container]
    text, code = run(miniature(tmp_path, "left"), "def test_it(server): assert server.max_model_len == 65536")
    assert code == 0, text
    assert ours() == []


FINDING = """
import pytest

@pytest.mark.finding("LC-0001")
def test_it(finding, server, ask, prompt, judge):
    assert judge(ask(prompt(1000), 32))
"""


def verdicts(tmp_path):
    """Return every verdict that a run has written."""
    results = tmp_path / "results" / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return [line["verdict"] for line in lines if line["kind"] == "verdict"]


def test_a_missing_image_is_nobodys_finding(tmp_path, run):
    text, code = run(miniature(tmp_path, "absent", image="longctx/absent:1"), FINDING)
    assert code == 1
    assert "the image longctx/absent:1 is not on this machine" in text
    assert "Traceback" not in text
    assert verdicts(tmp_path) == []


def test_an_image_that_cannot_be_pulled_is_said(tmp_path, run):
    text, code = run(miniature(tmp_path, "unpulled", image="127.0.0.1:9/none:1", docker='pull = "missing"'))
    assert code == 1
    assert "127.0.0.1:9/none:1 could not be pulled" in text


LAYER = b"never sent"


class Registry(BaseHTTPRequestHandler):
    """A registry with one image, whose layer never arrives."""

    over = Event()

    def do_GET(self) -> None:
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(LAYER)]}}
        )
        parts = (("config", config.encode(), "container.image.v1+json"), ("layer", LAYER, "image.rootfs.diff.tar.gzip"))
        rows = {
            name: {"mediaType": f"application/vnd.docker.{kind}", "size": len(body), "digest": digest(body)}
            for name, body, kind in parts
        }
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": rows["config"], "layers": [rows["layer"]]}
        if self.path.endswith(digest(LAYER)):
            self.send_response(200)
            self.send_header("Content-Length", str(len(LAYER)))
            self.end_headers()
            self.over.wait(60)
            return
        body = (
            config.encode()
            if "/blobs/" in self.path
            else json.dumps(manifest if "/manifests/" in self.path else {}).encode()
        )
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", digest(body))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


def digest(body):
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def test_a_pull_from_a_registry_that_stalls_has_an_end(tmp_path, run):
    registry = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    registry.daemon_threads = True
    Thread(target=registry.serve_forever, daemon=True).start()
    image = f"127.0.0.1:{registry.server_port}/stalls:1"
    try:
        text, code = run(miniature(tmp_path, "stalls", image=image, docker='pull = "missing"\npull_s = 5.0'), FINDING)
    finally:
        Registry.over.set()
        registry.shutdown()
        registry.server_close()
    assert code == 1
    assert f"{image} was not pulled within 5.00 s; the last that the engine said: " in text, text
    assert f"docker pull {image} before the run" in text
    assert "Traceback" not in text
    assert verdicts(tmp_path) == []


def test_a_taken_port_is_said(tmp_path, run):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text, code = run(miniature(tmp_path, "taken", flags=f"port = {port}"), FINDING)
    assert code == 1
    assert f"port {port} on 127.0.0.1 is taken" in text
    assert verdicts(tmp_path) == []


@pytest.mark.parametrize(
    ("hardware", "docker", "message"),
    [
        ("1xH200", "", "NVIDIA container toolkit"),
        ("1xH200", 'gpus = ["0"]', "NVIDIA container toolkit"),
        ("1xMI300X", "", "has no /dev/kfd"),
        ("1xtrn2", "", "has no /dev/neuron*"),
        ("cpu", 'devices = ["/dev/no-such-device"]', "the accelerator's driver"),
    ],
)
def test_an_accelerator_that_is_not_there_is_said(tmp_path, run, hardware, docker, message):
    path = miniature(tmp_path, "accelerated", docker=docker)
    path.write_text(path.read_text().replace('hardware = "cpu"', f'hardware = "{hardware}"'))
    text, code = run(path, FINDING, f"--longctx-hardware={hardware}")
    assert code == 1
    assert message in text
    assert verdicts(tmp_path) == []


EATS = [sys.executable, "-c", "x = b'x' * 2**30"]
DIES = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]


@pytest.mark.parametrize(
    ("first", "message", "found"),
    [
        (EATS, ("the container's state: OOMKilled", "outcome: runs out of memory, wanted serves"), ["broken"]),
        (DIES, ("ended by SIGKILL, from outside", "the kernel counted no out-of-memory kill"), []),
    ],
    ids=["memory limit", "SIGKILL"],
)
def test_a_memory_limit_is_told_from_another_kill(tmp_path, run, first, message, found):
    from tests.external.docker.conftest import interpreter

    python, _ = interpreter(sys.executable)
    # The container must be seen before it ends: where it never was, nothing is known of the kernel's count.
    late = f"import time; time.sleep(1); {first[2]}"
    more = f"memory_gib = 0.125\nentrypoint = {json.dumps([python, '-c', late])}"
    text, code = run(miniature(tmp_path, "limited", docker=more), FINDING)
    assert code == 1
    assert all(each in text for each in message), text
    assert verdicts(tmp_path) == found


KILLED = """
import threading, time
import pytest
from pytest_longctx.launchers.docker import container_cleanup
from pytest_longctx.launchers.docker import SOCKET

def end():
    time.sleep(1)
    (container, _), = container_cleanup.labelled(SOCKET, container_cleanup.RUN_LABEL)
    container_cleanup.call(SOCKET, "POST", f"/containers/{container}/kill")

@pytest.mark.finding("LC-0001")
def test_it(finding, server, ask, prompt, judge):
    threading.Thread(target=end).start()
    assert judge(ask(prompt(1000), 32))
"""


def test_a_container_that_is_killed_mid_prefill_judges_nothing(tmp_path, run):
    """Somebody else killed it: the kernel did not, and its state is not OOMKilled."""
    stuck = miniature(tmp_path, "killed", flags='fault = "never-schedules"')
    stuck.write_text(stuck.read_text().replace("admission_s = 2", "admission_s = 20"))
    text, code = run(stuck, KILLED)
    assert code == 1
    assert verdicts(tmp_path) == []
    assert "killed was stopped while it worked, so nothing is judged" in text
    assert "it was ended by SIGKILL, from outside" in text
    assert "the kernel counted no out-of-memory kill" in text


def test_the_engines_permission_is_asked_for(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to switch to a user without rights")
    ask = (
        "import os, docker, docker.errors, docker.types\n"
        "from pytest_longctx.launchers.docker import SOCKET, connect\n"
        "os.setgroups([]); os.setegid(65534); os.seteuid(65534)\n"
        "try: connect(SOCKET)\nexcept Exception as problem: print(type(problem).__name__, problem)"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith(f"LaunchError no Docker engine can be used at {SOCKET}: permission denied")


def test_the_image_is_there():
    """The cases above must not pass because no container can run at all."""
    assert container_cleanup.call(SOCKET, "GET", f"/images/{IMAGE}/json")
