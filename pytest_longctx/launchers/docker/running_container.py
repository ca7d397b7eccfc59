"""A container while it runs: its log, and how it ended."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.diagnosis.log_reader import GrowingLog
from pytest_longctx.diagnosis.oom_killer import kills_in_group_of
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers.docker.container import ContainerRun
from pytest_longctx.launchers.readiness import Candidate
from pytest_longctx.redaction import masked, secret_values

_SETTLE_S = 10.0
"""How long the engine may take to write down how a container ended, once its log or a connection has broken off."""
_OUTLAST_S = 3.0
"""How long an engine must still answer after one of its containers was ended by a signal: stopping, it ends them first."""


class Container(Candidate):
    """A running container, its log streamed into a file."""

    ours = True

    def __init__(self, container: Any, run: ContainerRun, log: Path, hidden: tuple[str, ...]) -> None:
        self.secrets = (*hidden, *secret_values(run.env, run.command))
        self.started_s = time.monotonic()
        self.log = log
        self.again = masked(run.line(), self.secrets)
        self._oom_killed: bool | None = None
        self._container = container
        self._exit_code: int | None = None
        self.lost = ""
        """Why nothing more can be seen of it, where the engine itself has gone."""
        self._over = threading.Event()
        log.touch()
        self._lines = GrowingLog(log)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        """Copy the log until it ends, then read how the container ended."""
        try:
            with self.log.open("wb", buffering=0) as out:
                for chunk in self._container.logs(stream=True, follow=True):
                    out.write(chunk)
            state = self._state()
            self._oom_killed, self._exit_code = bool(state.get("OOMKilled")), int(state["ExitCode"])
            if self._exit_code > 128 and not self._oom_killed:
                self._outlast()
        except Exception as problem:  # noqa: BLE001 - the SDK lets errors of several HTTP libraries through
            self.lost = str(problem) or type(problem).__name__
        finally:
            self._over.set()

    def _state(self) -> dict[str, Any]:
        end = time.monotonic() + _SETTLE_S
        while True:
            self._container.reload()
            state: dict[str, Any] = self._container.attrs["State"]
            if not state["Running"]:
                return state
            if time.monotonic() > end:
                raise LaunchError("its log broke off while it ran on")
            time.sleep(0.05)

    def _outlast(self) -> None:
        """Make sure that it was not the engine, on its way down, that sent the signal."""
        end = time.monotonic() + _OUTLAST_S
        while time.monotonic() < end:
            self._container.client.ping()
            time.sleep(0.2)

    def pid(self) -> int | None:
        """Its first process; None where that is none of this machine's, as where the engine runs beside this container."""
        try:
            self._container.reload()
            pid = int(self._container.attrs["State"]["Pid"])
            ours = self._container.id in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii")
        except Exception:  # noqa: BLE001 - the SDK lets errors of several HTTP libraries through; it may have ended already
            return None
        return pid if ours else None

    def exit_code(self) -> int | None:
        """The exit code in the container's state; None while it runs. Raises `LaunchError` where the engine is gone."""
        if not self._over.is_set():
            return None
        if self.lost:
            raise LaunchError(
                f"the Docker engine was lost while a container of it was watched: {masked(self.lost, self.secrets)}\n"
                f"  log      {self.log}\n  try      docker info, and the engine's own log"
            )
        return self._exit_code

    def oom_killed(self) -> bool | None:
        """Whether its memory limit ended it, or a process in it; None while it runs and nothing was ended."""
        if self._oom_killed is not None:
            return self._oom_killed
        # A worker may be killed, and its engine say no more than that it failed, seconds before the container's state tells.
        pid = self.pid()
        return bool(pid and kills_in_group_of(pid)) or None

    def new_lines(self) -> Iterator[str]:
        """Whole lines that the log has gained since the last call; the rest of it once the container has ended."""
        return self._lines.more(ended=self._over.is_set())

    def ended(self, wait_s: float) -> Evidence | None:
        """How it ended, if it does so within *wait_s*. Raises `LaunchError` where the engine is gone."""
        self._over.wait(wait_s)
        return super().ended(0.0)

    def close(self) -> None:
        """Wait for the rest of the log, after the container was removed."""
        self._over.wait(_SETTLE_S)
        self._lines.close()
