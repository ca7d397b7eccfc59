import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.deployments.hardware import KINDS, Hardware, Machine
from pytest_longctx.devices import detect as devices_detect
from pytest_longctx.devices import neuron
from pytest_longctx.devices.detect import detect
from pytest_longctx.units import GiB

DATA = Path(__file__).parents[2] / "data" / "devices"

KINDS_AND_SIZES = st.sampled_from([kind for kind in KINDS if kind != "cpu"]) | st.integers(1, 10**6).map("{}GiB".format)
DEVICES = st.builds(Hardware, KINDS_AND_SIZES, st.integers(1, 10**4))


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Write a vendor's tool that prints these lines and exits with this code. No other tool is on the path."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name, *lines, code=0):
        path = tmp_path / name
        printed = "".join(f"echo '{line}'\n" for line in lines)
        path.write_text(f"#!/bin/sh\n{printed}exit {code}\n", encoding="utf-8")
        path.chmod(0o755)

    return write


@given(DEVICES | st.just(Hardware("cpu")))
def test_hardware_is_read_as_it_is_written(hardware):
    assert Hardware.parse(str(hardware)) == hardware
    assert Hardware.parse(str(hardware).lower()) == hardware


def test_a_cpu_is_not_counted():
    assert str(Hardware("cpu")) == "cpu"


def test_a_device_without_a_number_is_one():
    assert Hardware.parse("H200") == Hardware("H200", 1)


@pytest.mark.parametrize(
    "text", ["", "8x", "x", "0xH200", "-1xH200", "8 x H200", "8xH201", "H200x8", "1.5xH200", " cpu"]
)
def test_what_is_no_hardware_is_refused_with_the_known_kinds(text):
    with pytest.raises(ValueError, match=r"must be hardware: devices and their kind .* Known kinds: H200"):
        Hardware.parse(text)


@given(DEVICES, DEVICES)
def test_a_machine_carries_its_own_kind_in_no_larger_number(here, wanted):
    assert here.carries(wanted) is (here.kind == wanted.kind and here.count >= wanted.count)
    assert here.carries(Hardware("cpu"))
    assert not Hardware("cpu").carries(wanted)


@given(DEVICES)
def test_any_gpu_is_carried_by_every_device_but_neurons(here):
    assert here.carries(Hardware.parse("1xGPU")) is (here.kind not in ("trn1", "trn2", "inf2"))
    assert not here.carries(Hardware.parse(f"{here.count + 1}xGPU"))
    assert not Hardware("cpu").carries(Hardware.parse("gpu"))


def test_no_machine_is_of_any_kind():
    with pytest.raises(
        ValueError, match="names neither the kind nor the memory of the device; write for example 1xH100"
    ):
        Hardware.machine("1xGPU")


@given(DEVICES)
def test_a_machine_carries_itself(here):
    assert here.carries(here)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H200, 143771 MiB, 570.86", "H200"),
        ("NVIDIA H100 80GB HBM3, 81559 MiB, 570.86", "H100"),
        ("NVIDIA H20, 97871 MiB, 570.86", "H20"),
        ("NVIDIA H20-3e, 143771 MiB, 570.86", "138GiB"),
        ("GRID A100D-20C, 20480 MiB, 550.54", "19GiB"),
        ("NVIDIA RTX A4500, 20470 MiB, 570.86", "19GiB"),
        ("Tesla K80, 11441 MiB, 470.1", "11GiB"),
        ("NVIDIA GB200, 189471 MiB, 570.86", "GB200"),
        ("NVIDIA B200, 183359 MiB, 570.86", "B200"),
        ("NVIDIA A100-SXM4-80GB, 81920 MiB, 570.86", "A100"),
        ("nvidia l40s, 46068 MiB, 570.86", "L40S"),
        ("NVIDIA H100 80GB HBM3, [N/A], 570.86", "H100"),
    ],
)
def test_devices_are_known_by_their_names_and_counted(tool, name, kind):
    tool("nvidia-smi", name, name, "")
    found = detect()
    assert found.hardware == Hardware(kind, 2)
    assert found.facts["devices"] == name


@pytest.mark.parametrize("name", ["NVIDIA GH2000", "Tesla K80", "NVIDIA H2000"])
def test_a_device_of_no_known_kind_is_unknown_hardware_and_no_cpu(tool, name):
    tool("nvidia-smi", name)
    assert detect().hardware is None
    assert detect().facts["devices"] == name


def test_most_devices_of_a_kind_decide(tool):
    tool("nvidia-smi", "Tesla T4", "NVIDIA H100", "NVIDIA H200", "NVIDIA H200")
    assert detect().hardware == Hardware("H200", 2)


def sample(name):
    return (DATA / name).read_text(encoding="utf-8")


def test_amds_devices_have_a_name_memory_and_a_driver(tool):
    tool("rocm-smi", "WARNING: AMD GPU device(s) is/are in a low-power state", sample("rocm-smi-product-mi300x.json"))
    found = detect()
    assert found.hardware == Hardware("MI300X")
    assert found.facts["devices"] == "AMD Instinct MI300X OAM 0x74a1, 196592 MiB, 6.8.5"


def test_amds_older_keys_are_read_too_and_cards_are_counted(tool):
    card = '{"Card series": "AMD Instinct MI325X"}'
    tool("rocm-smi", f'{{"card0": {card}, "card1": {card}, "system": {{}}}}')
    assert detect().hardware == Hardware("MI325X", 2)


def test_every_neuron_device_is_counted_with_its_cores(tool):
    (first,) = json.loads(sample("neuron-ls-trn2.48xlarge.json"))
    tool("neuron-ls", json.dumps([{**first, "neuron_device": index} for index in range(16)]))
    found = detect()
    assert found.hardware == Hardware("trn2", 16)
    assert found.facts["devices"] == "trn2.48xlarge, 4 cores, 98304 MiB"


@pytest.mark.parametrize(
    ("product", "kind"), [("trn1.2xlarge", "trn1"), ("trn1n.32xlarge", "trn1"), ("Standard PC", None)]
)
def test_an_older_neuron_tool_leaves_the_instance_to_the_firmware(tool, monkeypatch, product, kind):
    monkeypatch.setattr(neuron, "_firmware", lambda: product)
    tool("neuron-ls", sample("neuron-ls-trn1.2xlarge.json"))
    assert detect().hardware == (kind and Hardware(kind))
    assert detect().facts["devices"] == f"{product}, 2 cores, 32768 MiB"


CPUS = {
    "an Intel server": (
        "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\nflags\t\t: fpu sse2 avx2 avx512f amx_bf16 avx512_bf16\n"
        * 2,
        {"host_cpu_name": "Intel(R) Xeon(R) Processor", "host_cpu_flags": "avx2 avx512f avx512_bf16 amx_bf16"},
    ),
    "an ARM server": (
        "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16\n",
        {"host_cpu_flags": "asimd bf16 i8mm sve"},
    ),
    "an old one": ("model name\t: x\nflags\t: sse2\n", {"host_cpu_name": "x"}),
}


@pytest.mark.parametrize("name", CPUS)
def test_a_processor_has_a_name_and_the_flags_that_matter(tmp_path, name):
    text, reported = CPUS[name]
    (tmp_path / "cpuinfo").write_text(text)
    found = devices_detect._host(3 * GiB, tmp_path / "cpuinfo")
    assert {key: found[key] for key in found if key.startswith("host_cpu_")} == reported
    assert found["host_memory_gib"] == "3.0"
    assert set(devices_detect._host(None, tmp_path / "none")) == {"host_cpu", "host_cores"}


def test_a_machine_without_tools_is_a_cpu(tool):
    found = detect()
    assert isinstance(found, Machine)
    assert found.hardware == Hardware("cpu")
    assert {"host_system", "host_cpu", "host_cores"} <= set(found.facts)
    assert "devices" not in found.facts


@pytest.mark.parametrize("name", ["nvidia-smi", "rocm-smi", "neuron-ls"])
def test_a_tool_that_fails_says_nothing(tool, name):
    tool(name, "NVIDIA H200", code=9)
    assert detect().hardware == Hardware("cpu")
