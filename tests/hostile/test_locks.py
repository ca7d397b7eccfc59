"""Locks in a folder that others can write to, and a lock whose holder does not go on."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from pytest_longctx.client.server import exclusive
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.devices import leases
from pytest_longctx.errors import LaunchError
from pytest_longctx.processes import locks
from tests.unit import factories

HOLDS = """
import sys, time
from pytest_longctx.client.server import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""
URL = "http://127.0.0.1:1"


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder for temporary files, and no runtime folder."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    tempfile.tempdir = None


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_text("precious", encoding="utf-8")
    yield path
    assert path.read_text(encoding="utf-8") == "precious"


def test_a_link_in_place_of_a_lock_is_refused_and_not_followed(shared, victim):
    with exclusive(URL):
        (name,) = (each.name for each in locks.folder().iterdir())
    (locks.folder() / name).unlink()
    (locks.folder() / name).symlink_to(victim)
    with pytest.raises(LaunchError, match=r"cannot be opened.*\n  try      remove it"), exclusive(URL):
        pytest.fail("it took a lock through a link")


@pytest.mark.parametrize("name", ["devices.gate", "x.turn"])
def test_a_pipe_in_place_of_a_lock_is_refused_at_once(shared, name):
    os.mkfifo(locks.folder() / name)
    with pytest.raises(LaunchError, match="must be a regular file"):
        locks.opened(name)


def test_a_folder_that_is_a_link_is_refused(shared, victim, tmp_path_factory):
    (shared / f"pytest-longctx-{os.getuid()}").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(LaunchError, match="must be a folder that only this user can use"):
        locks.folder()


def test_a_folder_that_others_can_write_to_is_refused(shared):
    place = shared / f"pytest-longctx-{os.getuid()}"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(LaunchError, match="drwxrwxrwx"):
        locks.folder()


def test_a_lock_keeps_what_a_file_holds(shared):
    path = locks.folder() / "kept"
    path.write_text("x" * 200, encoding="utf-8")
    os.close(locks.opened("kept"))
    assert path.read_text(encoding="utf-8") == "x" * 200


def test_the_runtime_folder_comes_first_if_it_is_ours(shared, tmp_path_factory, monkeypatch):
    runtime = tmp_path_factory.mktemp("runtime")
    runtime.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert locks.folder() == runtime / "pytest-longctx"
    runtime.chmod(0o777)
    assert locks.folder().parent == shared


@pytest.mark.timeout(60)
def test_a_wait_says_for_whom_and_a_stopped_holder_is_given_up(shared, monkeypatch):
    monkeypatch.setattr(locks, "SAID_AFTER_S", 0.1)
    monkeypatch.setattr(locks, "STOPPED_S", 0.5)
    said: list[object] = []
    with subprocess.Popen([sys.executable, "-c", HOLDS, URL], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            other.send_signal(signal.SIGSTOP)
            with pytest.raises(LaunchError) as raised, exclusive(URL, said.append):
                pytest.fail("it took a lock that is held")
        finally:
            other.kill()
    assert f"the server at {URL} is in use by process {other.pid} (" in str(raised.value)
    assert "which is stopped" in str(raised.value)
    assert any(f"waiting for process {other.pid} (" in str(each) for each in said)


LEASES = """
import time
from pytest_longctx.devices import leases
with leases.lease("H200", 1, 1, {}):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.timeout(60)
def test_a_wait_for_a_device_says_for_whom_and_a_stopped_holder_is_given_up(shared, monkeypatch):
    monkeypatch.setattr(locks, "SAID_AFTER_S", 0.1)
    monkeypatch.setattr(locks, "STOPPED_S", 0.5)
    said: list[object] = []
    wants = factories.deployment(hardware="1xH200")
    with subprocess.Popen([sys.executable, "-c", LEASES], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            other.send_signal(signal.SIGSTOP)
            with pytest.raises(LaunchError) as raised, leases.own(wants, Hardware.parse("1xH200"), said.append):
                pytest.fail("it leased a device that is leased")
        finally:
            other.kill()
    assert f"1xH200: in use by process {other.pid} (" in str(raised.value)
    assert any(f"waiting for 1xH200, in use by process {other.pid} (" in str(each) for each in said)
