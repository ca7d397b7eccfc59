"""A cluster of one real API server and one simulated node, and deployments for it."""

import os
import subprocess
import sys
from functools import partial

import pytest

from pytest_longctx.launchers.kubernetes import object_cleanup
from pytest_longctx.processes.ports import free_ports
from pytest_longctx.processes.progress import wait_until
from tests.external.kubernetes.control_plane import KEPT, ControlPlane, certificate
from tests.external.kubernetes.kubelet import Kubelet

MINIATURE = """
name = "{name}"
title = "a miniature in a Pod"
backend = "miniature"
hardware = "cpu"
image = "{image}"
max_model_len = 65536
[model]
name = "miniature"
weights = "unknown"
[flags]
port = {port}
{flags}
[env]
{env}
[timeouts]
boot_s = {boot_s}
admission_s = 2
answer_s = 30
[docker]
python = "{python}"
{docker}
[kubernetes]
{table}
"""


class World:
    """A cluster and its contents."""

    def __init__(self, folder):
        self.plane = ControlPlane(folder)
        self.api = self.plane.api()
        self.kubelet = Kubelet(self.api, folder, certificate(folder, "kubelet"))

    def ours(self):
        """Return kind and name of every object with this project's label."""
        label = object_cleanup.RUN_LABEL
        return [
            (kind, each["metadata"]["name"])
            for kind in object_cleanup.KINDS
            for each in object_cleanup.labelled(self.api, kind, "default", label)
        ]

    def pods(self):
        return object_cleanup.labelled(self.api, "Pod", "default", object_cleanup.RUN_LABEL)

    def stop(self):
        self.kubelet.stop()
        self.plane.stop()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    if not (KEPT / "kube-apiserver").is_file():
        pytest.skip("no API server: .ci/kube-apiserver builds one, which takes some ten minutes")
    made = World(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


until = partial(wait_until, timeout_s=30.0)


def miniature(folder, name, *, image="longctx/base:1", flags="", env="", docker="", table="", boot_s=30, python=None):
    """Write a deployment file for a miniature in a Pod."""
    path = folder / f"{name}.toml"
    text = MINIATURE.format(
        name=name,
        image=image,
        flags=flags,
        env=env,
        docker=docker,
        table=table,
        boot_s=boot_s,
        port=free_ports(1)[0],
        python=python or sys.executable,
    )
    path.write_text(text, encoding="utf-8")
    return path


def command(deployment, *more):
    """Return the pytest command for the kubernetes launcher in a separate project."""
    plain = ["-c", os.devnull, "--rootdir=.", "--longctx-results=results", "-p", "no:cacheprovider"]
    chosen = ["--backend=miniature", "--longctx-launcher=kubernetes", f"--longctx-deployment={deployment}"]
    return [sys.executable, "-m", "pytest", "-s", *chosen, *plain, *map(str, more)]


@pytest.fixture
def run(tmp_path, world):
    """``run(deployment, test)``: text and exit code of a pytest run with one test."""

    def once(deployment, test="def test_it(server): pass", *more, **env):
        (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
        done = subprocess.run(
            command(deployment, *more),
            cwd=tmp_path,
            env={**os.environ, "KUBECONFIG": world.plane.admin, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.stdout + done.stderr, done.returncode

    return once


@pytest.fixture
def nothing_is_left(world):
    """Check that no object of this project exists before or after a test."""
    assert world.ours() == []
    yield
    assert until(lambda: world.ours() == []), world.ours()
