"""The Pods of one run while they are there: how far they are, the engine's log, and how it ended."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.diagnosis.log_reader import GrowingLog
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.kubernetes.cluster import Cluster
from pytest_longctx.launchers.kubernetes.pod_states import Seen, look
from pytest_longctx.launchers.readiness import Candidate
from pytest_longctx.progress import Progress
from pytest_longctx.redaction import masked

_LOOK_S = 0.5
_LOST_S = 30.0
"""How long the API may be silent before its Pods are given up: it restarts, or a lease on an address runs out."""
_SETTLE_S = 15.0
"""How long a cluster may take to write down how a container ended, once its log or a connection has broken off."""


class Pods(Candidate):
    """What one run has in a cluster, watched from two threads: one looks at the Pods, one copies the leader's log."""

    ours = True

    def __init__(self, cluster: Cluster, run_id: str, log: Path, again: str, secrets: tuple[str, ...]) -> None:
        self.secrets, self.again = secrets, again
        self.log: Path = log
        self.started_s = self._made_s = time.monotonic()
        self.seen = Seen("waiting for its Pod")
        self.lost = ""
        """Why nothing more can be seen of them."""
        self._cluster, self._run_id = cluster, run_id
        self._stop, self._log_over = threading.Event(), threading.Event()
        log.touch()
        self._lines = GrowingLog(log)
        threading.Thread(target=self._watch, daemon=True).start()

    def await_start(self, launch: Launch) -> None:
        """Until the engine's container runs, or has. Raises `LaunchError` where it will not, with what the cluster says."""
        most_s, name = launch.deployment.timeouts.boot_s, launch.deployment.name
        while not self.seen.started:
            waited_s = time.monotonic() - self._made_s
            self._complain()
            if waited_s > most_s:
                raise self._error(f"the Pod of {name} has not started after {most_s:.0f} s: {self.seen.doing}", "")
            launch.watch(Progress(f"pod {name}", self.seen.doing, waited_s, most_s))
            time.sleep(_LOOK_S / 5)
        # Finding a node and pulling an image are no part of a boot.
        self.started_s = time.monotonic()
        threading.Thread(target=self._copy, daemon=True).start()

    def _watch(self) -> None:
        heard_s = time.monotonic()
        while not self._stop.wait(_LOOK_S):
            before = self.seen
            quiet = before.started and before.exit_code is None
            try:
                pods = self._cluster.pods(self._run_id)
                events = (
                    [] if quiet else [each for pod in pods for each in self._cluster.events(pod["metadata"]["name"])]
                )
            except OSError as problem:
                if time.monotonic() - heard_s > _LOST_S:
                    self.lost = str(problem)
                    return
                continue
            heard_s = time.monotonic()
            self.seen = look(pods, events, heard_s - self._made_s)
            if before.leader is not None and self.seen.leader is None:
                self.lost = "somebody else has deleted it"
                return

    def _copy(self) -> None:
        """The leader's log into the file; where a stream breaks off, it is begun anew, and what is there already left out."""
        written = 0
        with self.log.open("wb", buffering=0) as out:
            while not self._stop.is_set() and not self.lost and self.seen.leader is not None:
                ended = self.seen.exit_code is not None
                skip = written
                try:
                    for chunk in self._cluster.follow(self.seen.leader):
                        new = chunk[skip:]
                        skip = max(0, skip - len(chunk))
                        out.write(new)
                        written += len(new)
                except OSError:
                    pass
                if ended:
                    break
                self._stop.wait(_LOOK_S)
        self._log_over.set()

    def _error(self, said: str, remedy: str) -> LaunchError:
        rows = [said, *([f"  log      {self.log}"] if self.log.stat().st_size else [])]
        return LaunchError(masked("\n".join([*rows, f"  try      {remedy or self.again}"]), self.secrets))

    def _complain(self) -> None:
        if self.seen.trouble:
            raise self._error(f"the cluster did not run the Pod: {self.seen.trouble}", self.seen.remedy)
        if self.lost:
            raise self._error(f"the Pod was lost: {self.lost}", "kubectl get events")

    def exit_code(self) -> int | None:
        """The engine's exit code; None while it runs. Raises `LaunchError` for what is the cluster's doing."""
        self._complain()
        if self.seen.exit_code is None:
            return None
        self._log_over.wait(_SETTLE_S)
        return self.seen.exit_code

    def oom_killed(self) -> bool | None:
        """Whether its memory limit ended it; None while it runs."""
        return self.seen.oom_killed

    def new_lines(self) -> Iterator[str]:
        """Whole lines that the log has gained since the last call; the rest of it once the engine has ended."""
        return self._lines.more(ended=self._log_over.is_set())

    def ended(self, wait_s: float) -> Evidence | None:
        """How it ended, if it does so within *wait_s*. Raises `LaunchError` for what was the cluster's doing."""
        end = time.monotonic() + wait_s
        while self.seen.exit_code is None and not self.seen.trouble and not self.lost and time.monotonic() < end:
            time.sleep(_LOOK_S / 5)
        time.sleep(2 * _LOOK_S)  # an eviction is written down beside the exit code, or a moment later
        return super().ended(0.0)

    def close(self) -> None:
        """Look no more; its Pods are gone."""
        self._stop.set()
        self._log_over.wait(1.0)
        self._lines.close()
