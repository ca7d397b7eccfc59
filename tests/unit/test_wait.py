"""What ends the wait for a server, and how soon: by a clock that only the waiting moves."""

import time as real_time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_longctx.backends import Backend
from pytest_longctx.builtin import BACKENDS, load
from pytest_longctx.errors import BootError, LaunchError
from pytest_longctx.launchers import Launch, ready
from pytest_longctx.launchers.knock import Knock
from tests.unit import make
from tests.unit.quoted import BENIGN, FAILURES

AT_S, BOOT_S = 5.0, 600.0
ENGINES = ("vllm", "sglang", "vllm-neuron", "transformers")
FATAL = [(name, line) for name, line, *_ in FAILURES]
HARMLESS = [*BENIGN, *((name, each.example) for name in ENGINES for each in load(BACKENDS[name])().catalogue.benign)]


class Booting(ready.Candidate):
    """A server that comes up for ever, and says *line* after five seconds, again and again."""

    def __init__(self, line: str, clock: SimpleNamespace) -> None:
        self.started_s, self.log, self.again, self.secrets, self.ours = 0.0, None, "", (), True
        self.line, self.clock = line, clock

    def exit_code(self) -> int | None:
        return None

    def new_lines(self) -> Iterator[str]:
        return iter(self.line.splitlines() if self.clock.now_s >= AT_S else [])


def failed(name: str, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, Exception]:
    """When the wait for a server of engine *name* that says *line* was over, and with what."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(
        ready,
        "time",
        SimpleNamespace(
            monotonic=lambda: clock.now_s, sleep=lambda s: setattr(clock, "now_s", clock.now_s + s), time=real_time.time
        ),
    )
    backend: Backend = load(BACKENDS[name])()
    launch = Launch(backend, make.deployment(), "m", folder)
    nobody = Knock(launch.server_at("http://127.0.0.1:1", "process"))  # whom nobody sends to knock
    with pytest.raises((LaunchError, BootError)) as raised:
        ready._Wait(Booting(line, clock), launch, nobody, BOOT_S).until_ready()
    return clock.now_s, raised.value


@pytest.mark.parametrize(("name", "line"), FATAL, ids=range(len(FATAL)))
def test_a_fatal_line_ends_the_wait_within_a_second(name, line, tmp_path, monkeypatch):
    over_s, problem = failed(name, line, tmp_path, monkeypatch)
    assert AT_S <= over_s < AT_S + 1
    assert "the time was up" not in str(problem)


@pytest.mark.parametrize(("name", "line"), HARMLESS, ids=range(len(HARMLESS)))
def test_a_line_that_only_looks_fatal_ends_no_wait(name, line, tmp_path, monkeypatch):
    over_s, problem = failed(name, line, tmp_path, monkeypatch)
    assert over_s > BOOT_S
    assert "the time was up" in str(problem)
