"""After any end of a run, no process is left and all earlier verdicts are readable on disk."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from pytest_longctx.reports import results
from tests.plugin.test_launcher_process_supervisor import DEPLOYMENT, processes, until

JUDGED = """
import pytest

@pytest.mark.finding("LC-0001")
def test_judged(finding, server, ask, prompt, judge):
    assert judge(ask(prompt(1000), 32))
"""

FAILS = """
def test_fails(server):
    assert False

def test_never_reached(server):
    open("reached", "w")
"""

FIXTURE = """
import pytest

@pytest.fixture
def broken(server):
    {before}
    yield
    {after}

def test_it(broken):
    pass
"""

BAD = """
class Bad:
    def pytest_runtest_logreport(self, report):
        raise RuntimeError("bad")

def test_it(server, pytestconfig):
    pytestconfig.pluginmanager.register(Bad())
"""

ENDS = {
    "-x": (FAILS, ("-x",), pytest.ExitCode.TESTS_FAILED),
    "a fixture that fails": (FIXTURE.format(before="1 / 0", after=""), (), pytest.ExitCode.TESTS_FAILED),
    "a fixture that fails afterwards": (FIXTURE.format(before="", after="1 / 0"), (), pytest.ExitCode.TESTS_FAILED),
    "a plugin that fails": (
        BAD,
        (),
        pytest.ExitCode.INTERNAL_ERROR,
    ),
    "pytest.exit": ("import pytest\ndef test_it(server): pytest.exit('enough', returncode=7)", (), 7),
}


def prepared(folder, name, *more):
    """Prepare a project with a finding that is judged, then *more*, and return the command that runs it."""
    (folder / "d.toml").write_text(DEPLOYMENT.format(name=name))
    for index, text in enumerate((JUDGED, *more)):
        (folder / f"test_{index}.py").write_text(text)
    chosen = ("--backend=miniature", "--longctx-deployment=d.toml", "--longctx-results=kept/results")
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", *chosen]


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_and_nothing_is_lost(tmp_path, how):
    text, options, code = ENDS[how]
    name = f"ends-{os.getpid()}-{list(ENDS).index(how)}"
    done = subprocess.run(
        [*prepared(tmp_path, name, text), *options], cwd=tmp_path, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == code, done.stdout.decode()
    assert not (tmp_path / "reached").exists()
    assert until(lambda: not processes(name))
    (verdict,) = results.read(tmp_path / "kept" / "results" / results.NAME).verdicts
    assert verdict["verdict"] == "holds", verdict["why"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_signal_leaves_nothing_running_and_what_was_judged(tmp_path, how):
    name = f"ends-{os.getpid()}-{how.name}".lower()
    command = [
        *prepared(tmp_path, name, "import time\ndef test_it(server): print('UP', flush=True); time.sleep(60)"),
        "-s",
    ]
    # A script's background job ignores SIGINT, and child processes inherit that.
    heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, preexec_fn=heeds) as run:  # noqa: PLW1509
        assert run.stdout is not None
        assert any("UP" in line for line in run.stdout)
        run.send_signal(how)
        run.wait(timeout=30)
    assert until(lambda: not processes(name))
    rows = results.begun(tmp_path / "kept" / "results" / results.NAME)
    (verdict,) = (row for row in rows if row["kind"] == "verdict")
    assert verdict["verdict"] == "holds", verdict["why"]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a separate small disk that is soon full."""
    folder = tmp_path / "kept"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def many(count):
    """Return so many tests of one finding that their rows exceed the available space."""
    return JUDGED.replace("@pytest", f'@pytest.mark.parametrize("again", range({count}))\n@pytest', 1).replace(
        "(finding", "(again, finding"
    )


def ended(done, path, name, said):
    """Check that the run reported why it ended, and that every written verdict is readable."""
    text = done.stdout.decode()
    assert done.returncode == pytest.ExitCode.INTERRUPTED, text
    assert f"{results.NAME}: {said}; the results written so far are kept" in text
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text, text
    assert until(lambda: not processes(name))
    rows = [row for row in results.begun(path) if row["kind"] == "verdict"]
    # The same prompt would be served from the cache, which breaks a finding about a cold prompt.
    assert rows[0]["verdict"] == "holds"
    assert '"footer"' not in path.read_text()


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_a_full_disk_ends_the_run(tmp_path, small_disk, workers):
    name = f"ends-{os.getpid()}-full-{len(workers)}"
    command = [*prepared(tmp_path, name, many(30)), *workers]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    ended(done, small_disk / "results" / results.NAME, name, "No space left on device")
    # Once there is space, earlier verdicts are not judged again.
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    resumed = subprocess.run(
        [*command, "--longctx-resume=kept/results"], cwd=tmp_path, stdout=subprocess.PIPE, check=False
    )
    verdicts = results.read(small_disk / "results" / results.NAME).verdicts
    assert (len(verdicts), resumed.returncode) == (31, pytest.ExitCode.TESTS_FAILED)
    assert 1 <= sum(bool(row["carried"]) for row in verdicts) < 30


def test_a_file_that_may_not_grow_ends_the_run(tmp_path):
    """As with a disk quota, where no disk can be mounted for a test."""
    name = f"ends-{os.getpid()}-quota"
    command = prepared(tmp_path, name, many(30))
    most = (24_000, 24_000)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, most),
    )
    path = tmp_path / "kept" / "results" / results.NAME
    ended(done, path, name, "File too large")
    assert json.loads(path.read_text().splitlines()[0])["kind"] == "header"


LAST_WORDS = """
import resource
from pathlib import Path
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish():
    most = Path("kept/results/results.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    return (yield)
"""


def test_a_disk_that_is_full_at_the_end_is_not_green(tmp_path):
    name = f"ends-{os.getpid()}-last"
    (tmp_path / "conftest.py").write_text(LAST_WORDS)
    command = prepared(tmp_path, name)
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert "1 passed" in done.stdout.decode()
    ended(done, tmp_path / "kept" / "results" / results.NAME, name, "File too large")
