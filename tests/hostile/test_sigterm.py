"""SIGTERM, as a CI system sends it some seconds before SIGKILL."""

import os
import signal
import subprocess
from xml.etree import ElementTree as ET

import pytest

from pytest_longctx import read_results
from pytest_longctx.reports.results import NAME
from tests.plugin.test_launcher_process_supervisor import processes, until
from tests.plugin.test_run_interrupted import prepared

WAITS = {
    "in a test": "import time\ndef test_it(server): print('UP', flush=True); time.sleep(60)",
    "in a request": """
from threading import Timer
def test_it(server, ask, prompt):
    Timer(0.5, print, ('UP',), {'flush': True}).start()
    ask(prompt(3000), 50)
""",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("where", WAITS)
def test_sigterm_leaves_a_footer_and_junit_xml_and_no_process(tmp_path, where):
    name = f"sigterm-{os.getpid()}-{list(WAITS).index(where)}"
    command = [*prepared(tmp_path, name, WAITS[where]), "-s", "--junitxml=report.xml"]
    if where == "in a request":
        (tmp_path / "d.toml").write_text(
            (tmp_path / "d.toml").read_text().replace("[model]", '[flags]\nfault = "crawls"\ncrawl-s = 1.0\n[model]')
        )
        command += ["--deselect", "test_0.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        said = []
        for line in run.stdout:
            said.append(line)
            if "UP" in line:
                break
        run.send_signal(signal.SIGTERM)
        said += list(run.stdout)
        assert run.wait(timeout=60) == 128 + signal.SIGTERM, "".join(said)
    assert until(lambda: not processes(name))
    assert "SIGTERM" in "".join(said)
    ET.parse(tmp_path / "report.xml")
    if where == "in a test":
        found = read_results(tmp_path / "kept" / "results" / NAME)
        assert found.footer["exit_code"] == 128 + signal.SIGTERM
        assert [row["verdict"] for row in found.verdicts] == ["holds"]
