"""Measure the CPU as an engine will find it: by the engine's own interpreter, in the environment a server is started with."""

import fnmatch
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pytest_longctx.backends import torch_speed
from pytest_longctx.deployments.cpu_speed import Speed

_PATIENCE_S = 60.0
"""PyTorch alone may take twenty seconds to be read from a cold disk."""

_DECIDING = ("ONEDNN_*", "DNNL_*", "ATEN_*", "MKL_*", "KMP_*", "OMP_*", "GOMP_*", "LD_PRELOAD", "PYTHONPATH")


def deciding(env: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """What of *env* decides which instructions and how many cores are used: equal for equal speeds."""
    return frozenset(
        (name, value) for name, value in env.items() if any(fnmatch.fnmatchcase(name, one) for one in _DECIDING)
    )


def measure(python: Path, env: Mapping[str, str]) -> Speed | None:
    """The speed of this machine's CPU as *python* finds it in *env*; None where it has no PyTorch or gives no answer in time."""
    command = [str(python), torch_speed.__file__]
    try:
        done = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        said = json.loads(done.stdout.splitlines()[-1])
        rates = {str(name): float(rate) for name, rate in said["gflop_per_s"].items()}
        return Speed(rates, float(said["copy_gb_per_s"]), float(said["python_s"]), frozenset(said["lacks"]))
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, AttributeError):
        return None
