"""Measure the CPU speed that an engine will have, with the engine's interpreter and the environment of a server."""

import fnmatch
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pytest_longctx.backends import torch_speed
from pytest_longctx.deployments.cpu_speed import Speed

_PATIENCE_S = 60.0
"""Timeout of the measurement. Importing PyTorch from a cold disk may take 20 s alone."""

_DECIDING = ("ONEDNN_*", "DNNL_*", "ATEN_*", "MKL_*", "KMP_*", "OMP_*", "GOMP_*", "LD_PRELOAD", "PYTHONPATH")


def deciding(env: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Return the variables of *env* that affect instruction sets and core counts. Equal variables give equal speeds."""
    return frozenset(
        (name, value) for name, value in env.items() if any(fnmatch.fnmatchcase(name, one) for one in _DECIDING)
    )


def measure(python: Path, env: Mapping[str, str]) -> Speed | None:
    """
    Return the CPU speed measured with *python* in *env*; None if the interpreter has no PyTorch or does not finish in
    time.
    """
    command = [str(python), torch_speed.__file__]
    try:
        done = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        reported = json.loads(done.stdout.splitlines()[-1])
        rates = {str(name): float(rate) for name, rate in reported["gflop_per_s"].items()}
        return Speed(rates, float(reported["copy_gb_per_s"]), float(reported["python_s"]), frozenset(reported["lacks"]))
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, AttributeError):
        return None
