"""Show the progress of a long wait on the terminal."""

import math
import shutil
import time

import pytest

from pytest_longctx.processes.progress import Progress

_PLAIN_EVERY_S = 30.0
"""Seconds between two reports of a long wait without a terminal."""
_FIRST_WORD_S = 3.0
"""Shortest wait, in seconds, that gets a line."""


class ProgressLine:
    """
    Progress of a wait: one overwritten line on a terminal, otherwise or if *plain* a line every half minute, nothing if
    pytest is quiet.
    """

    def __init__(self, config: pytest.Config, *, plain: bool = False) -> None:
        self.config = config
        self.said_s = time.monotonic()
        """Time at which the line was last printed, or the wait began; minus infinity to print the next update."""
        self._plain = plain
        self._live = False

    def begin(self) -> None:
        """Begin a wait. The progress line appears only if the wait is long."""
        self.said_s = -math.inf

    def update(self, progress: Progress) -> None:
        """Show the *progress* of a wait on the progress line."""
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        capture = self.config.pluginmanager.getplugin("capturemanager")
        if reporter is None or capture is None or self.config.get_verbosity() < 0 or progress.elapsed_s < _FIRST_WORD_S:
            return
        now = time.monotonic()
        overwrites = reporter.isatty and not self._plain
        if now - self.said_s < (1.0 if overwrites else _PLAIN_EVERY_S):
            return
        self.said_s = now
        with capture.global_and_fixture_disabled():
            if not self._live:
                reporter.ensure_newline()
            if overwrites:
                self._live = True
                reporter.rewrite(progress.fitted(shutil.get_terminal_size().columns - 1), erase=True)
            else:
                if self._plain and reporter._width_of_current_line:  # noqa: SLF001 - under xdist, results are on a line of no file
                    reporter.write_line("")
                reporter.write_line(f"longctx {progress}")

    def clear(self) -> None:
        """Remove the progress line of a finished wait."""
        if self._live:
            self._live = False
            with self.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                self.config.pluginmanager.getplugin("terminalreporter").rewrite("", erase=True)
