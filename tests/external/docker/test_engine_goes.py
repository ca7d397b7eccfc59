"""Output of a run whose Docker engine disappears: an error, never a failed finding."""

import os
import subprocess
import time

import pytest

from pytest_longctx.launchers.docker import container_cleanup
from tests.external.docker.conftest import IMAGE, command, miniature, until
from tests.external.docker.test_containers import verdicts

SUDO = [] if os.geteuid() == 0 else ["sudo"]
BRIDGE = "longctx0"


class Daemon:
    """A second Docker engine beside the machine's, which can be stopped."""

    def __init__(self, folder):
        self.socket = str(folder / "d.sock")
        self.argv = [
            *SUDO,
            "dockerd",
            f"--host=unix://{self.socket}",
            f"--group={os.getgid()}",
            f"--data-root={folder / 'data'}",
            f"--exec-root={folder / 'exec'}",
            f"--pidfile={folder / 'pid'}",
            # A separate bridge, because --bridge=none would remove the bridge of the machine's engine.
            *(f"--bridge={BRIDGE}", "--iptables=false", "--ip-forward=false"),
        ]
        self.folder = folder

    def start(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log)
        assert until(self.answers, timeout_s=60), (self.folder / "log").read_text()

    def answers(self):
        try:
            return container_cleanup.call(self.socket, "GET", "/info") is not None
        except OSError:
            return False

    def stop(self):
        pid = (self.folder / "pid").read_text().strip()
        subprocess.run([*SUDO, "kill", "-TERM", pid], check=True)
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A second engine with the image."""
    # The path of a socket has a length limit.
    folder = tmp_path_factory.mktemp("d")
    subprocess.run([*SUDO, "ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    subprocess.run([*SUDO, "ip", "address", "add", "172.30.255.1/24", "dev", BRIDGE], check=True)
    made = Daemon(folder)
    made.start()
    with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as saved:
        subprocess.run(
            ["docker", "-H", f"unix://{made.socket}", "load"], stdin=saved.stdout, check=True, capture_output=True
        )
    yield made
    made.stop()
    subprocess.run([*SUDO, "rm", "-rf", folder / "data", folder / "exec"], check=True)
    subprocess.run([*SUDO, "ip", "link", "delete", BRIDGE], check=True)


ASKS = """
import pytest

@pytest.mark.finding("LC-0001")
def test_it(finding, server, ask, prompt, judge):
    print("UP", flush=True)
    assert judge(ask(prompt(1000), 32))
"""


@pytest.mark.parametrize("fault", ["never-schedules", "hangs-at-boot"])
def test_an_engine_that_stops_is_nobodys_finding(tmp_path, daemon, fault):
    path = miniature(tmp_path, "orphaned", flags=f'fault = "{fault}"')
    path.write_text(path.read_text().replace("admission_s = 2", "admission_s = 25"))
    (tmp_path / "test_it.py").write_text(ASKS)
    argv = command("--backend=miniature", f"--longctx-deployment={path}")
    argv[argv.index("--longctx-launcher=docker")] = f"--longctx-launcher=docker:unix://{daemon.socket}"
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        assert until(lambda: container_cleanup.labelled(daemon.socket, container_cleanup.RUN_LABEL) != [])
        if fault == "never-schedules":
            assert any("UP" in line for line in held.stdout)
        time.sleep(1)
        daemon.stop()
        text = held.stdout.read()
        assert held.wait(timeout=60) == 1
    daemon.start()
    assert "the connection to the Docker engine was lost" in text
    assert verdicts(tmp_path) == []
    assert until(lambda: container_cleanup.labelled(daemon.socket, container_cleanup.RUN_LABEL) == [])


def test_an_engine_that_is_not_there_is_said(tmp_path, run):
    text, code = run(miniature(tmp_path, "nowhere"), ASKS, f"--longctx-launcher=docker:unix://{tmp_path}/no.sock")
    assert code == 1
    assert "there is no such socket" in text
    text, code = run(miniature(tmp_path, "nowhere"), ASKS, DOCKER_HOST="tcp://10.0.0.1:2376")
    assert code == 4
    assert "only an engine at a Unix socket of this machine" in text
