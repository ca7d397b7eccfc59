"""The catalogue of accelerators."""

import pytest

from pytest_longctx.deployments import accelerators
from pytest_longctx.deployments.capacity import DEVICE_GIB
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.deployments.roofline import PEAK_TFLOPS


@pytest.mark.parametrize("kind", accelerators.every())
def test_every_one_has_a_source_and_less_memory_than_it_is_sold_with(kind):
    one = accelerators.every()[kind]
    assert one.source.startswith("https://")
    assert one.bandwidth_gbs > 0
    assert one.visible_gib is None or 0.8 < one.visible_gib * 1.0737 / one.memory_gb < 1.08
    assert one.fp8 is None or (one.bf16 is not None and one.fp8 > one.bf16)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000"),
        ("NVIDIA GB200", "GB200"),
        ("AMD Instinct MI355X", "MI355X"),
        ("trn1n.32xlarge", "trn1"),
        ("NVIDIA H2000", None),
    ],
)
def test_a_device_is_known_by_the_name_it_gives_itself(name, kind):
    assert accelerators.kind_in(name) == kind


@pytest.mark.parametrize("text", ["8xa100-80gb", "2xRTX 4090", "1xh100_nvl", "4xMI325X", "cpu"])
def test_hardware_is_parsed_whatever_its_spelling(text):
    assert Hardware.parse(text).kind in (*accelerators.every(), "cpu")


def test_sizes_and_peaks_are_those_of_the_catalogue():
    assert DEVICE_GIB["H200"] == 139.8
    assert PEAK_TFLOPS["H100"] == {2: 989, 1: 1979}
    assert "trn2" not in DEVICE_GIB
