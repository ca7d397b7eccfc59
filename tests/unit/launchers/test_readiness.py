"""End of the wait for a server, and its time, by a clock that only the wait advances."""

import time as real_time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_longctx import processes
from pytest_longctx.backends import Backend
from pytest_longctx.errors import BootError, LaunchError
from pytest_longctx.launchers import Launch, readiness
from pytest_longctx.launchers.process import ProcessLauncher
from pytest_longctx.launchers.readiness_probe import ReadinessProbe
from pytest_longctx.registry import BACKENDS, load
from tests.unit import factories
from tests.unit.recorded_logs import BENIGN, FAILURES

AT_S, BOOT_S = 5.0, 60.0
"""Seconds until the server's lines begin, and the limit of its boot: each second of the clock costs ten readings of the log."""
ENGINES = ("vllm", "sglang", "vllm-neuron", "transformers")
SAID = [(name, line, signature) for name, line, signature, *_ in FAILURES]
SURVIVED_BY_NONE = {
    "worker-died",
    "engine-failed",
    "engine-dead",
    "worker-error",
    "child-died",
    "child-crashed",
    "scheduler-failed",
}
"""What no engine goes on after, by its source; all else is remembered until the process ends or nothing moves."""
FATAL = [(name, line) for name, line, signature in SAID if signature in SURVIVED_BY_NONE]
REMEMBERED = [each for each in SAID if each[2] not in SURVIVED_BY_NONE and "Worker failed with error" not in each[1]]
HARMLESS = [*BENIGN, *((name, each.example) for name in ENGINES for each in load(BACKENDS[name])().catalogue.benign)]


class Booting(processes.Candidate):
    """A server that never becomes ready, and logs *line* repeatedly from five seconds on."""

    def __init__(self, line: str, clock: SimpleNamespace) -> None:
        self.started_s, self.log, self.again, self.secrets, self.ours = 0.0, None, "", (), True
        self.line, self.clock = line, clock

    def exit_code(self) -> int | None:
        return None

    def new_lines(self) -> Iterator[str]:
        return iter(self.line.splitlines() if self.clock.now_s >= AT_S else [])


def failed(
    name: str,
    line: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type["Booting"] = Booting,
    **timeouts: float,
) -> tuple[float, Exception]:
    """Return when the wait for a server of engine *name* that logs *line* ended, and with which error."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(
        readiness,
        "time",
        SimpleNamespace(
            monotonic=lambda: clock.now_s, sleep=lambda s: setattr(clock, "now_s", clock.now_s + s), time=real_time.time
        ),
    )
    backend: Backend = load(BACKENDS[name])()
    launch = Launch(backend, factories.deployment(timeouts=timeouts), "m", folder)
    probe = ReadinessProbe(launch.server_at("http://127.0.0.1:1", ProcessLauncher()))  # without health requests
    with pytest.raises((LaunchError, BootError)) as raised:
        readiness._Wait(kind(line, clock), launch, probe, BOOT_S).until_ready()
    return clock.now_s, raised.value


@pytest.mark.parametrize(("name", "line"), FATAL, ids=range(len(FATAL)))
def test_a_fatal_line_ends_the_wait_within_a_second(name, line, tmp_path, monkeypatch):
    over_s, problem = failed(name, line, tmp_path, monkeypatch)
    assert AT_S <= over_s < AT_S + 1
    assert "the time was up" not in str(problem)


@pytest.mark.parametrize(("name", "line", "signature"), REMEMBERED, ids=range(len(REMEMBERED)))
def test_a_line_that_an_engine_may_survive_is_remembered_and_named_when_nothing_moves(
    name, line, signature, tmp_path, monkeypatch
):
    over_s, problem = failed(name, line, tmp_path, monkeypatch)
    assert BOOT_S / 2 < over_s < BOOT_S / 2 + AT_S + 1
    assert f"({signature})" in str(problem)


@pytest.mark.parametrize(("name", "line"), HARMLESS, ids=range(len(HARMLESS)))
def test_a_line_that_only_looks_fatal_ends_no_wait(name, line, tmp_path, monkeypatch):
    over_s, problem = failed(name, line, tmp_path, monkeypatch)
    assert BOOT_S / 2 < over_s < BOOT_S / 2 + AT_S + 1  # from then on it says nothing new
    assert "no progress for 30" in str(problem)
    assert isinstance(problem, BootError)
    assert problem.observation.outcome in ("hangs", "is not admitted")


class Loading(Booting):
    """A server that logs its loading progress every few seconds until *stops_s*."""

    stops_s = 1e9

    def new_lines(self) -> Iterator[str]:
        said_s = min(self.clock.now_s, self.stops_s) // 7 * 7
        return iter([f"INFO 11-20 23:13:{self.clock.now_s % 60:02.0f} Loading shard {said_s:.0f} of 10000"])


def test_a_boot_that_still_moves_when_its_time_is_up_is_too_slow_and_no_hang(tmp_path, monkeypatch):
    over_s, problem = failed("vllm", "", tmp_path, monkeypatch, Loading)
    assert isinstance(problem, BootError)
    assert BOOT_S < over_s < BOOT_S + 1
    assert (problem.observation.outcome, problem.observation.kind) == (None, "too-slow")
    assert "too slow here: not ready within 60.0 s, and the log (" in str(problem)
    assert "a longer timeouts.boot_s in the deployment" in str(problem)


def test_a_boot_that_falls_silent_is_a_hang_after_the_stated_time(tmp_path, monkeypatch):
    monkeypatch.setattr(Loading, "stops_s", 30.0)
    over_s, problem = failed("vllm", "", tmp_path, monkeypatch, Loading, boot_stall_s=20)
    assert isinstance(problem, BootError)
    assert 48 <= over_s < 50
    assert problem.observation.outcome == "hangs"
    assert "no progress for 20." in str(problem)
