"""Holds a reaper: a process that stands by, and removes what one run has made when that lets go of it, or dies."""

import os
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

from pytest_longctx.processes import GRACE_S

_UNSETTLED_S: Final = 10.0


class Reaper:
    """The reaper in *script*, which is given a pipe, *words* and how long what it ends may take to end by itself."""

    def __init__(self, script: str, *words: str, isolation: str = "-I") -> None:
        end, self._hold = os.pipe()
        command = [sys.executable, isolation, script, str(end), *words, str(GRACE_S)]
        try:
            # It may live longer than this process, and must not keep anybody waiting for the end of its output.
            null = subprocess.DEVNULL
            self._process = subprocess.Popen(
                command, stdin=null, stdout=null, stderr=null, start_new_session=True, pass_fds=(end,)
            )
        finally:
            os.close(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go(in_peace=False)

    def let_go(self, *, in_peace: bool) -> None:
        """
        Wait until everything is gone, or it is clear that nobody answers.

        Not *in_peace*: nobody knows whether something is about to be made.
        """
        if self._hold < 0:
            return
        if in_peace:
            os.write(self._hold, b".")
        os.close(self._hold)
        self._hold = -1
        try:
            self._process.wait(timeout=2 * GRACE_S if in_peace else _UNSETTLED_S)
        except subprocess.TimeoutExpired:
            # It goes on by itself. The Popen object would complain, when it is collected, that nobody waits for it.
            self._process.returncode = 0
