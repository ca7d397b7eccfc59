"""No server survives the end of pytest, whatever ends it."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pytest_longctx.backends import Recipe
from pytest_longctx.processes import Process, environment
from pytest_longctx.processes.progress import wait_until

DEPLOYMENT = """
name = "leashed"
title = "t"
backend = "miniature"
max_model_len = 4096
[model]
name = "{name}"
weights = "unknown"
"""


def processes(word):
    """Return the ids of all live processes with *word* on their command line, except this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


until = partial(wait_until, timeout_s=20.0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_no_server_outlives_pytest(tmp_path, how):
    name = f"leashed-{os.getpid()}-{how.name}".lower()
    (tmp_path / "d.toml").write_text(DEPLOYMENT.format(name=name))
    (tmp_path / "test_it.py").write_text("import time\ndef test_it(server): print('UP'); time.sleep(60)")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "--backend=miniature",
        "--longctx-deployment=d.toml",
        "-c",
        os.devnull,
    ]
    with subprocess.Popen(
        [*command, "--rootdir=."],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        # A script's background job ignores SIGINT, and child processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as run:
        assert run.stdout is not None
        assert any("UP" in line for line in run.stdout)
        assert len(processes(name)) == 2  # the supervisor and the server
        run.send_signal(how)
        run.wait(timeout=30)
    assert until(lambda: not processes(name))


ORPHANS = """
import os, subprocess, sys, time
# A grandchild in a session of its own, which ignores SIGTERM: nothing but its ancestry leads to it.
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", deaf, sys.argv[1]], start_new_session=True)
{then}
"""


@pytest.mark.parametrize("then", ["time.sleep(60)", "sys.exit(3)"], ids=["let go", "exits"])
def test_descendants_go_with_the_server(tmp_path, then):
    """Engines start workers in separate sessions; an orphaned worker would keep the GPU memory."""
    from pytest_longctx.processes import _supervisor

    name = f"orphan-{os.getpid()}-{len(then)}"
    end, hold = os.pipe()
    command = [
        sys.executable,
        "-I",
        _supervisor.__file__,
        str(end),
        "2",
        "-1",
        "1",
        sys.executable,
        "-c",
        ORPHANS.format(then=then),
        name,
    ]
    with subprocess.Popen(command, pass_fds=(end,)) as held:
        os.close(end)
        assert until(lambda: len(processes(name)) >= (3 if "sleep" in then else 1))
        if "sleep" in then:
            os.close(hold)
        code = held.wait(timeout=20)
    if "sleep" not in then:
        os.close(hold)
    assert code == (3 if "exit" in then else 128 + signal.SIGTERM)
    assert processes(name) == []


ENDS_AT_ONCE = """
import pathlib, runpy, subprocess, sys, time

class Popen(subprocess.Popen):
    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        while ") Z" not in pathlib.Path(f"/proc/{self.pid}/stat").read_text():
            time.sleep(0.01)

subprocess.Popen = Popen
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_exit_code_of_a_command_that_ends_at_once_is_not_lost():
    """As on a busy machine: the command ends before the supervisor looks at it for the first time."""
    from pytest_longctx.processes import _supervisor

    end, hold = os.pipe()
    ends = [sys.executable, "-c", "exit(7)"]
    command = [sys.executable, "-c", ENDS_AT_ONCE, _supervisor.__file__, str(end), "2", "-1", "1", *ends]
    try:
        assert subprocess.run(command, pass_fds=(end,), timeout=30, check=False).returncode == 7
    finally:
        os.close(end)
        os.close(hold)


def test_a_signal_that_ended_the_server_is_in_the_exit_code():
    from pytest_longctx.processes import _supervisor

    end, hold = os.pipe()
    die = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    command = [sys.executable, "-I", _supervisor.__file__, str(end), "2", "-1", "1", sys.executable, "-c", die]
    assert subprocess.run(command, pass_fds=(end,), check=False).returncode == 128 + signal.SIGKILL
    os.close(end)
    os.close(hold)


LOSES = """
import os, signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
time.sleep(2.5)  # a worker that a supervisor has not seen yet is collected with its parent
{then}
"""
COLLECTS = "os.kill(worker.pid, signal.{how}); time.sleep(0.5); worker.wait(); time.sleep(60)"
LEAVES = """
os.kill(worker.pid, signal.{how})
while ") Z" not in open(f"/proc/{{worker.pid}}/stat").read(): time.sleep(0.01)
os._exit(0)
"""


AT_ONCE = "os.kill(worker.pid, signal.{how}); worker.wait(); time.sleep(60)"


@pytest.mark.parametrize(
    "then",
    [
        COLLECTS,
        LEAVES,
        pytest.param(
            AT_ONCE,
            marks=pytest.mark.skipif(
                tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 15),
                reason="Linux tells the end of a collected process since 6.15",
            ),
        ),
    ],
    ids=["the parent goes on", "the parent ends", "the parent collects it at once"],
)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV], ids=lambda how: how.name)
def test_the_signal_that_ended_a_worker_is_seen(tmp_path, then, how):
    """An engine rarely logs how its worker ended."""
    argv = (sys.executable, "-c", LOSES.format(then=then.format(how=how.name)))
    recipe = Recipe(name="t", argv=argv, env={}, port=0, model="m", boot_s=1.0)
    process = Process(recipe, environment(recipe, os.environ), tmp_path / "log")
    try:
        assert until(process.ends)
        if then == LEAVES:
            assert until(lambda: process.exit_code() is not None)
        (end,) = process.evidence(process.exit_code()).process_ends
        assert end.number == how
        assert str(end).endswith(f"was ended by {how.name}")
    finally:
        process.stop()
    assert process.ends() == (end,), "what the supervisor ends itself is not noted"


def test_the_id_of_a_command_that_a_signal_ended_at_once_is_known(tmp_path):
    """The kernel's log names the victims of its memory killer by their ids."""
    argv = (
        sys.executable,
        "-c",
        "import os, signal; print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGKILL)",
    )
    recipe = Recipe(name="t", argv=argv, env={}, port=0, model="m", boot_s=1.0)
    process = Process(recipe, environment(recipe, os.environ), tmp_path / "log")
    try:
        assert until(lambda: process.exit_code() is not None)
        (end,) = process.ends()
        assert (end.pid, end.number) == (int((tmp_path / "log").read_text()), signal.SIGKILL)
    finally:
        process.stop()


def test_a_worker_that_ends_by_itself_is_not_noted(tmp_path):
    argv = (sys.executable, "-c", LOSES.format(then="worker.terminate(); worker.wait(); subprocess.run(['true'])"))
    recipe = Recipe(name="t", argv=argv, env={}, port=0, model="m", boot_s=1.0)
    process = Process(recipe, environment(recipe, os.environ), tmp_path / "log")
    try:
        assert until(lambda: process.exit_code() is not None)
    finally:
        process.stop()
    assert all(end.number == signal.SIGTERM for end in process.ends())


def test_ctrl_c_ends_a_request_that_nobody_answers(tmp_path):
    """A prefill of ten million tokens takes an hour; an interrupt must not have to wait for it."""
    name = f"leashed-{os.getpid()}-asking"
    stuck = '[flags]\nfault = "never-schedules"\n[timeouts]\nadmission_s = 600\nanswer_s = 600\n'
    (tmp_path / "d.toml").write_text(DEPLOYMENT.format(name=name) + stuck)
    (tmp_path / "test_it.py").write_text(
        "def test_it(server, ask, prompt):\n    p = prompt(1000)\n    print('UP', flush=True)\n    ask(p, 4)\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "--backend=miniature",
        "--longctx-deployment=d.toml",
        "-c",
        os.devnull,
    ]
    with subprocess.Popen(
        [*command, "--rootdir=."],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as run:
        assert run.stdout is not None
        assert any("UP" in line for line in run.stdout)
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=20) == pytest.ExitCode.INTERRUPTED
    assert until(lambda: not processes(name))
