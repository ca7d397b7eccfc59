"""Progress of long waits under real xdist: printed by the controller, in whole lines, and no more than without xdist."""

import os
import pkgutil
import re
import time
from importlib import import_module
from typing import cast

import pytest

from pytest_longctx import plugin
from pytest_longctx.plugin.worker_progress import WorkerLine, WorkerProgress
from pytest_longctx.processes.progress import Progress
from tests.conftest import FAULTY

LINE = re.compile(r"longctx (?:(gw\d+) )?boot (?:\d of \d: )?(\w+): .+, \d[\d.]* s of at most 20\.0 s")


@pytest.fixture
def slow_boots(run, pytester):
    """Run a finding on two deployments that never come up, with options."""
    for name in ("one", "two"):
        text = FAULTY.format(fault="hangs-at-boot", boot_s=20, answer_s=5, stall_s=5)
        (pytester.path / f"{name}.toml").write_text(text.replace('name = "faulty"', f'name = "{name}"', 1))
    return lambda *options: (
        run("--backend=miniature", "--longctx-deployment=one.toml,two.toml", "-k", "LC-0001", *options).text
    )


def progress(text):
    """The progress lines of a run, each as its worker and its deployment. Every mention of a boot in progress is a whole line."""
    lines = [line for line in text.splitlines() if " s of at most " in line]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    return [(each[1], each[2]) for each in found if each]


def test_both_workers_say_what_they_wait_for(slow_boots):
    told = progress(slow_boots("-n2"))
    assert sorted(name for _, name in told) == ["one", "two"]
    assert sorted(worker for worker, _ in told) == ["gw0", "gw1"]


def test_it_is_no_more_than_without_workers(slow_boots):
    alone = progress(slow_boots())
    assert sorted(alone) == [(None, "one"), (None, "two")]


@pytest.mark.parametrize("quiet", [["-q"], ["-q", "-q"]], ids=" ".join)
def test_a_quiet_run_has_none(slow_boots, quiet):
    assert progress(slow_boots("-n2", *quiet)) == []


class Terminal:
    """The parts of a terminal reporter that the progress line uses."""

    isatty = True

    def __init__(self):
        self.lines = [""]

    @property
    def _width_of_current_line(self):
        return len(self.lines[-1])

    def ensure_newline(self):
        pass

    def write_line(self, text):
        self.lines[-1] += text
        self.lines.append("")


@pytest.fixture
def shown(pytestconfig, monkeypatch, tmp_path):
    """A controller with a terminal and a clock that the test moves."""
    terminal, now = Terminal(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    plugins = {"terminalreporter": terminal, "capturemanager": pytestconfig.pluginmanager.getplugin("capturemanager")}

    class Config:
        class pluginmanager:  # noqa: N801 - as pytest names it
            getplugin = staticmethod(plugins.get)

        @staticmethod
        def get_verbosity():
            return 0

    return WorkerProgress(cast(pytest.Config, Config()), str(tmp_path)), terminal, now


def state(what="boot one", elapsed_s=5.0):
    return Progress(what, "loading weights", elapsed_s, 600.0)


def test_dots_of_results_are_not_continued_by_a_progress_line(shown):
    controller, terminal, _ = shown
    terminal.lines[-1] = "....F"
    worker = WorkerLine(controller.folder, "gw0")
    worker.begin()
    worker.update(state())
    controller.tell()
    assert terminal.lines == ["....F", "longctx gw0 boot one: loading weights, 5.00 s of at most 10 min 00 s", ""]


def test_one_line_at_a_time_of_the_worker_that_was_silent_longest(shown):
    controller, terminal, now = shown
    workers = [WorkerLine(controller.folder, f"gw{at}") for at in range(3)]
    for at, worker in enumerate(workers):
        worker.begin()
        worker.update(state(f"boot d{at}"))
    for _ in range(200):  # 100 s
        now[0] += 0.5
        for at, worker in enumerate(workers):
            worker.update(state(f"boot d{at}", 5 + now[0] - 1000))
        controller.tell()
    said = [re.search(r"(gw\d) boot d(\d): .*, (.*) of", line) for line in terminal.lines[:-1]]
    assert [each[1] for each in said if each] == ["gw0", "gw1", "gw2"] * 4  # at the start, and each half minute
    assert all(each and each[1] == f"gw{each[2]}" for each in said)


def test_a_wait_that_is_over_a_dead_worker_and_an_old_state_are_not_shown(shown, tmp_path):
    controller, terminal, now = shown
    worker = WorkerLine(controller.folder, "gw0")
    worker.begin()
    worker.update(state())
    worker.clear()
    controller.tell()
    worker.update(state())
    node = type("Node", (), {"gateway": type("Gateway", (), {"id": "gw0"})})
    controller.pytest_testnodedown(node)
    controller.tell()
    worker.clear()
    worker.update(state())
    os.utime(tmp_path / "gw0", (time.time() - 120, time.time() - 120))
    now[0] += 100
    controller.tell()
    assert terminal.lines == [""]


def test_a_state_that_is_cut_or_a_folder_that_is_gone_is_no_error(shown, tmp_path):
    controller, terminal, _ = shown
    (tmp_path / "gw0").write_text('{"wait": 1, "what', encoding="utf-8")
    controller.tell()
    assert terminal.lines == [""]
    away = WorkerLine(str(tmp_path / "none"), "gw0")  # as on another host
    away.update(state())
    away.clear()


def test_every_plugin_object_has_a_hash():
    """Pytest 8.4 puts each registered object into a set."""
    modules = [import_module(each.name) for each in pkgutil.iter_modules(plugin.__path__, f"{plugin.__name__}.")]
    hooks = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    hooks = {value for value in hooks if any(name.startswith("pytest_") for name in vars(value))}
    assert {"WorkerProgress", "Recorder", "Deselecting"} <= {value.__name__ for value in hooks}
    assert [value.__name__ for value in hooks if getattr(value, "__hash__", None) is None] == []
