"""Parsing of vendors' tool output. The samples come from users of the hardware."""

import ast
import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.devices import Device, Holder, amd, figures, neuron, wanted
from pytest_longctx.processes.progress import wait_until
from pytest_longctx.units import GiB, Mi

DATA = Path(__file__).parents[2] / "data/devices"
NVIDIA = Path(amd.__file__).with_name("nvidia.py")


def sample(name):
    return (DATA / name).read_text(encoding="utf-8")


def test_amd_smi_is_read_as_a_list_and_as_an_object_and_behind_a_warning():
    text = sample("amd-smi-rx6600.json")
    seen = Device(0, 202 * Mi, power_w=6.0, clock_mhz=800.0, memory_clock_mhz=541.0, utilisation=0.01)
    assert amd.read_amd_smi(text) == (seen,)
    assert amd.read_amd_smi(json.dumps({"gpu_data": json.loads(text)})) == (seen,)
    assert amd.read_amd_smi(f"WARNING: [amdgpu] not in render group\n{text}") == (seen,)


def test_what_amd_smi_does_not_tell_is_unknown_and_not_zero():
    assert amd.read_amd_smi('[{"gpu": 3, "power": {"socket_power": "N/A"}}]') == (Device(3),)
    assert amd.read_amd_smi('[{"gpu": 3, "usage": "N/A", "clock": "N/A"}]') == (Device(3),)


def test_rocm_smi_is_read_card_by_card():
    assert amd.read_rocm_smi(sample("rocm-smi-mi350.json")) == (
        Device(0, 200804560896.0, power_w=266.0, clock_mhz=173.0, memory_clock_mhz=2000.0, utilisation=0.99),
    )
    # No size was requested, and a share of the memory is no size in bytes.
    assert amd.read_rocm_smi(sample("rocm-smi-6.2.4-780m.json")) == (
        Device(0, None, power_w=7.222, clock_mhz=800.0, memory_clock_mhz=400.0, utilisation=0.19),
    )
    older = '{"card1": {"Average Graphics Package Power (W)": "N/A (Secondary die)"}}'
    assert amd.read_rocm_smi(older) == (Device(1),)


def test_neuron_monitor_adds_up_the_cores_of_a_device():
    text = sample("neuron-monitor-inf1.json")
    (one,) = neuron.read_devices(text)
    assert one.used_bytes == 4 * 63105088
    assert one.utilisation == pytest.approx((2.9264 + 3.0803 + 2.5171 + 2.4884) / 400, abs=1e-4)
    assert neuron.read_holders(text) == tuple(Holder(0, pid, 63105088) for pid in (20843, 21050, 21411, 21741))


def test_a_runtime_that_does_not_tell_its_memory_makes_it_unknown():
    text = sample("neuron-monitor-inf2.json")
    assert neuron.read_devices(text) == (Device(0, None, utilisation=0.447),)
    assert neuron.read_holders(text) == ()
    idle = {**json.loads(text), "neuron_runtime_data": []}
    assert neuron.read_devices(json.dumps(idle)) == (Device(0, 0.0, utilisation=0.0),)


@pytest.mark.parametrize("read", [amd.read_amd_smi, amd.read_rocm_smi, neuron.read_devices])
@pytest.mark.parametrize("text", ["", "No AMD GPUs specified", "{", "[1"])
def test_what_is_no_report_is_an_error_and_not_an_idle_machine(read, text):
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        read(text)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=8))
def test_every_device_keeps_its_place_in_a_gauge(powers):
    devices = [Device(i, power_w=power) for i, power in enumerate(powers)]
    assert figures(devices) == {"device_power_w": powers}
    assert figures([*devices, Device(9)])["device_power_w"] == [*powers, None]
    assert figures([Device(0, used_bytes=GiB)]) == {"device_memory_gib": [1.0]}


def test_a_server_takes_the_devices_it_names_or_the_first_ones():
    assert wanted(("5", "2"), 1, 8) == [5]
    assert wanted((), 4, 2) == [0, 1]


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Put a tool on the path that prints the contents of a file, and then continues or exits."""

    def put(name, text, then="exit 0"):
        (tmp_path / "out").write_text(text)
        (tmp_path / name).write_text(f"#!/bin/sh\n/bin/cat {tmp_path}/out\n{then}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


@pytest.mark.parametrize(("tool", "name"), [("amd-smi", "amd-smi-rx6600.json"), ("rocm-smi", "rocm-smi-mi350.json")])
def test_amds_tool_that_is_there_is_the_one_that_is_asked(on_path, tool, name):
    on_path(tool, sample(name))
    source = amd.AmdSmi((), 8)
    assert source.name == tool
    assert [one.index for one in source.devices()] == [0]
    assert amd.AmdSmi(("1",), 1).devices() == ()
    on_path(tool, "", "exit 3")
    with pytest.raises(subprocess.CalledProcessError):
        source.devices()


def test_neurons_tool_is_followed_until_it_is_let_go(on_path):
    on_path("neuron-monitor", sample("neuron-monitor-inf1.json"), "exec /bin/sleep 60")
    source = neuron.NeuronMonitor((), 1)
    (one,) = wait_until(source.devices, 20)
    assert one.used_bytes == 4 * 63105088
    assert len(source.holders()) == 4
    source.close()
    with pytest.raises(OSError, match="the tool exited with code -9"):
        source.devices()


def test_neurons_tool_that_ends_by_itself_is_missed(on_path):
    on_path("neuron-monitor", "", "exit 4")
    source = neuron.NeuronMonitor((), 1)
    source._reader.join()
    with pytest.raises(OSError, match="exited with code 4"):
        source.devices()
    source.close()


def test_nvml_has_every_name_that_is_asked_of_it():
    """The module cannot run here, but the existence of the names it calls can be checked."""
    pynvml = pytest.importorskip("pynvml")
    called = {
        node.attr
        for node in ast.walk(ast.parse(NVIDIA.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pynvml"
    }
    assert len(called) > 10
    assert [name for name in called if not hasattr(pynvml, name)] == []
