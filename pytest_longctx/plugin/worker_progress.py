"""
Progress of long waits under xdist: workers write it to files, and the controller prints it.

A worker has no terminal. The controller prints between two events of its workers, in the thread that also prints the results, so
no line is broken into. A line of a worker appears no more often than without xdist, and no two appear within `_APART_S`.
"""

import json
import math
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Queue
from typing import Any, Final

import pytest

from pytest_longctx.plugin.progress_line import ProgressLine
from pytest_longctx.processes.progress import Progress

FOLDER: Final = "longctx_progress"
"""Key of ``workerinput``: the folder of the files. A worker on another host does not find it, and writes none."""
_WRITTEN_EVERY_S: Final = 1.0
_APART_S: Final = 3.0
_FRESH_S: Final = 60.0
"""Age from which a file is not shown: its worker has ended, or waits for something that tells no progress."""


class WorkerLine:
    """The progress line of an xdist worker, kept in a file with the state of its wait."""

    def __init__(self, folder: str, worker: str) -> None:
        self._path = Path(folder) / worker
        self._waits = 0
        self._wrote_s = -math.inf

    def begin(self) -> None:
        """Begin a wait of an xdist worker, and write its first state at once."""
        self._waits += 1
        self._wrote_s = -math.inf

    def update(self, progress: Progress) -> None:
        """Write the *progress* of a wait. An unwritable file does not fail a test."""
        now = time.monotonic()
        if now - self._wrote_s < _WRITTEN_EVERY_S:
            return
        self._wrote_s = now
        part = self._path.with_suffix(".part")
        try:
            part.write_text(json.dumps({"wait": self._waits, **asdict(progress)}), encoding="utf-8")
            part.replace(self._path)
        except OSError:
            return

    def clear(self) -> None:
        """Remove the state of a worker's finished wait."""
        self._wrote_s = -math.inf
        self._path.unlink(missing_ok=True)


@dataclass
class _Shown:
    """The progress of one worker that the controller has printed."""

    line: ProgressLine
    wait: int = 0


@dataclass(eq=False)  # pytest 8.4 requires a hash of a plugin
class WorkerProgress:
    """Plugin of the controller that tells workers their folder, and prints the progress that they write there."""

    config: pytest.Config
    folder: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="pytest-longctx-progress-"))

    def __post_init__(self) -> None:
        self._shown = defaultdict[str, _Shown](lambda: _Shown(ProgressLine(self.config, plain=True)))
        self._said_s = -math.inf

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Pass the folder for progress files to a worker."""
        node.workerinput[FOLDER] = self.folder

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Forget the state of a worker that has ended."""
        WorkerLine(self.folder, node.gateway.id).clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        """Print progress while xdist's controller waits for events."""
        queue = getattr(self.config.pluginmanager.getplugin("dsession"), "queue", None)
        if not isinstance(queue, Queue):
            return (yield)
        with _before_each_get(queue, self.tell):
            return (yield)

    def pytest_unconfigure(self) -> None:
        """Remove the folder of progress files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tell(self) -> None:
        """Print at most one line: the state of the worker whose last line is the oldest."""
        if time.monotonic() - self._said_s < _APART_S:
            return
        states = sorted(self._states(), key=lambda each: each[0])
        for worker, wait, _ in states:
            if wait != self._shown[worker].wait:
                self._shown[worker].wait = wait
                self._shown[worker].line.begin()
        for worker, _, progress in sorted(states, key=lambda each: self._shown[each[0]].line.said_s):
            line = self._shown[worker].line
            before_s = line.said_s
            line.update(replace(progress, what=f"{worker} {progress.what}"))
            if line.said_s != before_s:
                self._said_s = line.said_s
                return

    def _states(self) -> Iterator[tuple[str, int, Progress]]:
        """Yield the recent states of waits, each with its worker and the number of the wait."""
        for path in Path(self.folder).glob("gw*"):
            if path.suffix:
                continue
            try:
                age_s = time.time() - path.stat().st_mtime
                read = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # removed meanwhile
                continue
            if age_s < _FRESH_S:
                yield path.name, read.pop("wait"), Progress(**read)


@contextmanager
def _before_each_get(queue: Any, call: Callable[[], None]) -> Iterator[None]:
    """Call *call* before each ``queue.get``, which xdist repeats every two seconds while nothing happens."""
    get = queue.get

    def calling(*arguments: Any, **named: Any) -> Any:
        call()
        return get(*arguments, **named)

    queue.get = calling
    try:
        yield
    finally:
        queue.get = get
