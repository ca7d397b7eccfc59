"""Attribution of device memory: to other processes before a boot, and not to the server after its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_longctx.devices import Device, Holder, memory_holders, sampler
from pytest_longctx.devices.memory_holders import GONE, Look
from pytest_longctx.errors import LaunchError
from pytest_longctx.processes._supervisor import descendants
from pytest_longctx.units import GiB


def look(*used_gib, holders=()):
    return Look([Device(i, None if size is None else size * GiB) for i, size in enumerate(used_gib)], holders)


def test_an_idle_machine_is_free():
    assert memory_holders.memory_holders(look(0.0, 0.3)) == []
    assert memory_holders.memory_holders(look(None)) == []
    assert memory_holders.memory_holders(look(0.1, holders=[Holder(0, os.getpid(), 0.03 * GiB)])) == []


def test_a_process_that_holds_memory_is_named_with_its_command_line():
    (line,) = memory_holders.memory_holders(look(71.5, 0.0, holders=[Holder(0, os.getpid(), 71 * GiB)]))
    assert line.startswith(f"device 0: 71.00 GiB in use by pid {os.getpid()}: ")
    assert Path(sys.executable).name in line


def test_a_process_that_cannot_be_seen_is_named_by_its_pid():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
        (line,) = memory_holders.memory_holders(look(30.0, holders=[Holder(0, gone.pid, None)]))
    assert line == f"device 0: an unknown amount in use by pid {gone.pid}: {GONE}"


def test_memory_that_no_process_owns_up_to_is_in_use_all_the_same():
    """As inside a container, where the driver does not list processes of other containers."""
    assert memory_holders.memory_holders(look(0.0, 64.0)) == [
        f"device 1: 64.00 GiB in use by a process that is not visible ({GONE})"
    ]


def test_a_secret_on_a_command_line_is_not_shown():
    secret = "hf_" + "a" * 34
    command = [sys.executable, "-c", "print(flush=True); input()", "--token", secret]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        message = memory_holders.command(other.pid)
        other.communicate(b"\n")
    assert "--token" in message
    assert secret not in message


def test_a_boot_is_refused_with_what_was_found_and_what_to_do():
    memory_holders.refuse("big", "1xH200", "NVML", [])
    with pytest.raises(LaunchError) as refused:
        memory_holders.refuse("big", "1xH200", "NVML", ["device 0: 71.00 GiB in use by pid 7: vllm serve"])
    rows = str(refused.value).splitlines()
    assert rows[0].startswith("big was not booted")
    assert [row.split()[0] for row in rows[1:]] == ["asked", "found", "checked", "try"]
    assert "pid 7: vllm serve" in rows[2]
    assert "--longctx-allow-busy-gpu" in rows[4]


def test_what_was_held_before_is_not_the_servers():
    before = look(40.0, 5.0, holders=[Holder(0, 7, 40 * GiB)])
    assert memory_holders.memory_holders(before, before) == []
    after = look(60.0, 25.0, holders=[Holder(0, 7, 40 * GiB), Holder(0, 8, 20 * GiB)])
    first, second = memory_holders.memory_holders(after, before)
    assert first.startswith("device 0: 20.00 GiB in use by pid 8")
    assert second.startswith("device 1: 20.00 GiB in use by a process that is not visible")


def test_memory_may_take_a_moment_to_come_back():
    looks = iter([look(50.0), look(0.0)])
    assert memory_holders.await_release(lambda: next(looks), look(0.0)) == []
    (line,) = memory_holders.await_release(lambda: look(50.0), look(0.0), most_s=0.0)
    assert "50.00 GiB" in line


def test_host_memory_is_that_of_the_processes_that_are_there():
    fill = "b = bytearray(b'x') * (200 * 2**20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", fill], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in descendants(os.getpid())
        seen = sampler.host_figures([child.pid, 2**22 + 1])
        child.communicate(b"\n")
    assert 200 / 1024 < seen["host_anonymous_gib"] < 0.4
    assert seen["host_anonymous_gib"] <= seen["host_rss_gib"]
    assert sampler.host_figures([child.pid]) == {}
