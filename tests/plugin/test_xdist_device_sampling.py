"""Two deployments on one host: neither boot blocks the other, and memory is attributed to the right server."""

import os

import pytest

from pytest_longctx import paths, read_results
from tests.plugin.test_xdist_device_leases import prepared

NVML = """
"Four pretended devices; what is in use on each is what files say."
import time
from pathlib import Path
from types import SimpleNamespace

NVML_CLOCK_SM, NVML_CLOCK_MEM, nvmlMemory_v2 = 1, 2, 2

class NVMLError(Exception):
    pass

def nvmlInit():
    "Whoever looks second looks when the first server holds its memory."
    try:
        Path("looked").touch(exist_ok=False)
    except FileExistsError:
        until = time.monotonic() + 20
        while not list(Path().glob("used-*")) and time.monotonic() < until:
            time.sleep(0.05)

def nvmlShutdown():
    pass

def nvmlDeviceGetCount():
    return 4

def nvmlDeviceGetHandleByIndex(index):
    return index

nvmlDeviceGetIndex = nvmlDeviceGetHandleByIndex

def nvmlDeviceGetUUID(handle):
    return f"GPU-{handle}{handle}-of-this-host"

def nvmlDeviceGetMemoryInfo(handle, version):
    files = (f"used-{handle}", f"used-GPU-{handle}{handle}", f"stranger-{handle}")
    return SimpleNamespace(used=40 * 2**30 if any(Path(name).exists() for name in files) else 0)

def nvmlDeviceGetComputeRunningProcesses(handle):
    return []

def _not_told(*arguments):
    raise NVMLError

nvmlDeviceGetPowerUsage = nvmlDeviceGetUtilizationRates = nvmlDeviceGetClockInfo = _not_told
"""

HOLDING = """
from contextlib import contextmanager
from pathlib import Path

import pretending

class Holding(pretending.Meeting):
    "A server holds memory of the devices that it is shown."
    @contextmanager
    def up(self, launch):
        held = Path("used-" + launch.shown["CUDA_VISIBLE_DEVICES"])
        held.touch()
        with super().up(launch) as server:
            yield server
        held.unlink()

def pytest_longctx_make_launcher(kind):
    return Holding() if kind == "holding" else None
"""


@pytest.mark.parametrize(
    ("inherited", "leased"),
    [(None, ["0", "1"]), ("2,3", ["2", "3"]), ("GPU-33,GPU-22", ["GPU-22", "GPU-33"])],
    ids=["any", "indices", "UUIDs"],
)
def test_a_boot_looks_only_at_the_devices_that_it_has_leased(run, pytester, monkeypatch, tmp_path, inherited, leased):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if inherited is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
        (pytester.path / "stranger-0").touch()
    reported = prepared(pytester, "1xH200")
    pytester.makepyfile(pynvml=NVML, holding=HOLDING)
    here = (str(paths.suites()), "-c", str(pytester.path / "tox.ini"), f"--rootdir={pytester.path}")
    spread = ("-p", "holding", "--longctx-hardware=4xH200", "--longctx-launcher=holding")
    outcome = pytester.runpytest_subprocess(*here, *reported, *spread)
    outcome.assert_outcomes(passed=4)
    results = read_results(pytester.path / "results" / "results.jsonl")
    assert sorted(row["words"]["CUDA_VISIBLE_DEVICES"] for row in results.boots) == leased
    seen = [row["figures"]["device_memory_gib"] for row in results.vitals if "device_memory_gib" in row["figures"]]
    assert {len(one) for one in seen} == {1}
    assert [row["said"] for row in results.vitals if "said" in row] == []


def test_a_device_that_a_stranger_holds_is_still_refused(run, pytester, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    reported = [each for each in prepared(pytester, "1xH200") if each != "-n2"]
    pytester.makepyfile(pynvml=NVML)
    (pytester.path / "stranger-0").touch()
    here = (str(paths.suites()), "-c", str(pytester.path / "tox.ini"), f"--rootdir={pytester.path}")
    outcome = pytester.runpytest_subprocess(
        *here, *reported, "-k", "LC-0030-first or LC-0001-first", "--longctx-hardware=4xH200"
    )
    outcome.assert_outcomes(errors=2)
    outcome.stdout.fnmatch_lines(["*found    device 0: 40.00 GiB in use by a process that is not visible*"])
