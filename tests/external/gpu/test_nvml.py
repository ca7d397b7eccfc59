"""
NVML on a real, idle NVIDIA GPU: ``pytest tests/external/gpu -s``, with nvidia-ml-py and torch installed.

Covers the calls of the product: plausible figures, a boot refused with name and pid of the holder, and freed memory.
"""

import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.devices import figures, memory_holders
from pytest_longctx.devices.detect import detect
from pytest_longctx.devices.monitor import monitored
from pytest_longctx.errors import LaunchError
from pytest_longctx.toml import check
from pytest_longctx.units import GiB

pytest.importorskip("pynvml")
pytest.importorskip("torch")
nvidia = pytest.importorskip("pytest_longctx.devices.nvidia")

HOLD = """
import sys, time, torch
held = torch.empty(3 * 2**30, dtype=torch.uint8, device="cuda").fill_(1)
torch.cuda.synchronize()
print("HOLDING", flush=True)
while True:
    square = torch.empty(4096, 4096, device="cuda").normal_()
    square @ square
"""


@pytest.fixture
def one():
    return check(
        {"name": "big", "title": "t", "backend": "vllm", "model": {"name": "m"}, "hardware": "1xH200"},
        Deployment,
        "here",
    )


@pytest.fixture
def source():
    try:
        made = nvidia.Nvml((), 1)
    except nvidia.pynvml.NVMLError as problem:
        pytest.skip(f"no NVIDIA driver: {problem}")
    yield made
    made.close()


@pytest.fixture
def holder():
    with subprocess.Popen([sys.executable, "-c", HOLD, "somebody-else"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "HOLDING\n"
            time.sleep(3)
            yield process
        finally:
            process.kill()


def until_free(source):
    return memory_holders.await_release(
        lambda: memory_holders.Look(source.devices(), source.holders()), memory_holders.Look()
    )


def test_an_idle_device_tells_everything_and_is_free(source):
    (idle,) = source.devices()
    print("\nidle:", figures([idle]), "held:", source.holders())
    assert until_free(source) == []
    assert None not in (idle.used_bytes, idle.power_w, idle.clock_mhz, idle.memory_clock_mhz, idle.utilisation)
    assert idle.used_bytes < GiB
    assert 20 < idle.power_w < 1200


def test_a_look_is_cheap(source):
    began_s, cpu_s = time.perf_counter(), time.thread_time()
    for _ in range(100):
        source.devices()
    looks_ms, looks_cpu_ms = (time.perf_counter() - began_s) * 10, (time.thread_time() - cpu_s) * 10
    began_s = time.perf_counter()
    source.holders()
    print(
        f"\none look: {looks_ms:.2f} ms, {looks_cpu_ms:.2f} ms CPU; holders: {(time.perf_counter() - began_s) * 1e3:.2f} ms"
    )


def test_a_boot_on_its_memory_is_refused_by_name_and_pid(source, holder, one):
    (busy,) = source.devices()
    print("\nbusy:", figures([busy]), "held:", source.holders())
    assert busy.used_bytes > 3 * GiB
    assert busy.utilisation > 0.5
    with (
        pytest.raises(LaunchError) as refused,
        monitored(one, Hardware("H200"), {}, print, contained=False, allow_busy=False),
    ):
        raise AssertionError
    print(refused.value)
    # In a container the driver can report other process ids or none. The boot is then refused because of the memory alone.
    assert "somebody-else" in str(refused.value) or memory_holders.GONE in str(refused.value)
    holder.kill()
    holder.wait()
    assert until_free(source) == []


def test_memory_that_is_not_back_is_said_with_its_holder(source, one):
    assert until_free(source) == []
    rows: list[Mapping[str, Any]] = []
    with subprocess.Popen(
        [sys.executable, "-c", "input();" + HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as late:
        try:
            assert late.stdin is not None
            assert late.stdout is not None
            with monitored(one, Hardware("H200"), {}, rows.append, contained=False, allow_busy=False):
                late.stdin.write(b"\n")
                late.stdin.flush()
                assert late.stdout.readline() == b"HOLDING\n"
                time.sleep(3)
        finally:
            late.kill()
    said = [row["said"] for row in rows if "said" in row]
    print("\n", len(rows), rows[-2], *said, sep="\n")
    assert len(said) == 1
    assert said[0].startswith("big has stopped, but its memory was not released: device 0: ")
    assert max(row["figures"]["device_memory_gib"][0] for row in rows if row["figures"]) > 3
    assert until_free(source) == []


def test_this_machine_is_known_by_its_device(source):
    found = detect()
    print("\n", found)
    assert found.hardware is not None
    assert found.hardware.kind != "cpu"
