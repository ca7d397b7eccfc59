"""A launcher that a plugin brings gets what `process` gets, by what it says of itself and not by its name."""

import os
import re
from pathlib import Path

import pytest

from pytest_longctx import paths
from pytest_longctx.launchers import Launcher
from pytest_longctx.reports import results as results_file
from tests.plugin.test_xdist_device_leases import prepared
from tests.plugin.test_xdist_device_sampling import HOLDING, NVML

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = (DOCS / "examples/prefixed.py").read_text(encoding="utf-8")
MEETING = """
import time
from contextlib import contextmanager
from pathlib import Path

import prefixed

class Meeting(prefixed.Prefixed):
    "A server is handed out once both are up."
    @contextmanager
    def up(self, launch):
        with super().up(launch) as server:
            Path(f"up-{launch.deployment.name}").touch()
            until = time.monotonic() + 20
            while len(list(Path().glob("up-*"))) < 2 and time.monotonic() < until:
                time.sleep(0.05)
            yield server
"""


def ready(pytester, monkeypatch, tmp_path, launcher=EXAMPLE):
    """Two one-GPU deployments, a host of four pretended GPUs, and *launcher* as the module ``prefixed``; their options."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    told = prepared(pytester, "1xH200")
    pytester.makepyfile(
        pynvml=NVML,
        prefixed=launcher,
        meeting=MEETING,
        holding=HOLDING.replace("pretending.Meeting", "meeting.Meeting"),
    )
    holding = pytester.path / "holding.py"
    holding.write_text(holding.read_text().replace("import pretending", "import meeting"))
    here = (str(paths.suites()), "-c", str(pytester.path / "tox.ini"), f"--rootdir={pytester.path}")
    return (*here, *told, "-p", "prefixed", "--longctx-hardware=4xH200")


def test_the_page_shows_the_file_that_runs():
    page = (DOCS / "how-to/add-a-launcher.md").read_text(encoding="utf-8")
    assert re.findall(r"```python\n(.*?)```", page, re.DOTALL) == [EXAMPLE]
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(Launcher.__annotations__)


@pytest.mark.usefixtures("run")
def test_its_servers_are_up_at_once_each_on_devices_of_its_own(pytester, monkeypatch, tmp_path):
    told = ready(pytester, monkeypatch, tmp_path)
    outcome = pytester.runpytest_subprocess(*told, "-p", "holding", "--longctx-launcher=holding")
    outcome.assert_outcomes(passed=4)
    results = results_file.read(pytester.path / "results" / "results.jsonl")
    assert {row["launcher"] for row in results.boots} == {"prefixed"}
    assert sorted(row["words"]["CUDA_VISIBLE_DEVICES"] for row in results.boots) == ["0", "1"]
    seen = [row["figures"]["device_memory_gib"] for row in results.vitals if "device_memory_gib" in row["figures"]]
    assert {len(one) for one in seen} == {1}
    assert any("host_rss_gib" in row["figures"] for row in results.vitals)


@pytest.mark.usefixtures("run")
def test_it_is_not_booted_on_a_device_that_another_process_holds(pytester, monkeypatch, tmp_path):
    told = [each for each in ready(pytester, monkeypatch, tmp_path) if each != "-n2"]
    (pytester.path / "stranger-0").touch()
    chosen = ("-k", "LC-0030-first or LC-0001-first", "--longctx-launcher=prefixed:env A=B")
    outcome = pytester.runpytest_subprocess(*told, *chosen)
    outcome.assert_outcomes(errors=2)
    outcome.stdout.fnmatch_lines(["*found    device 0: 40.00 GiB in use by a process that is not visible*"])


@pytest.mark.parametrize(
    ("attribute", "refused"), [("leases_devices = True", "has no leases_devices."), ("here = True", "has no here.")]
)
@pytest.mark.usefixtures("run")
def test_a_launcher_that_lacks_an_attribute_is_refused_by_its_name(pytester, monkeypatch, tmp_path, attribute, refused):
    told = ready(pytester, monkeypatch, tmp_path, EXAMPLE.replace(f"    {attribute}\n", ""))
    outcome = pytester.runpytest_subprocess(*told, "--longctx-launcher=prefixed")
    assert outcome.ret == pytest.ExitCode.USAGE_ERROR
    outcome.stderr.fnmatch_lines([f"*--longctx-launcher=prefixed: Prefixed {refused}*"])
    outcome.stderr.no_fnmatch_line("*Traceback*")


@pytest.mark.usefixtures("run")
def test_workers_are_refused_where_it_leases_nothing(pytester, monkeypatch, tmp_path):
    told = ready(pytester, monkeypatch, tmp_path, EXAMPLE.replace("leases_devices = True", "leases_devices = False"))
    outcome = pytester.runpytest_subprocess(*told, "--longctx-launcher=prefixed")
    outcome.stderr.fnmatch_lines(["*each worker would boot its own pretended server*"])
