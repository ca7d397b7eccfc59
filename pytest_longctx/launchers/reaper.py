"""Start a reaper: a process that removes what one run has created, when the run releases it or dies."""

import os
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

from pytest_longctx.processes import GRACE_S

_UNSETTLED_S: Final = 10.0


class Reaper:
    """A reaper process of *script*, with a pipe, *words*, and the grace period of what it ends as arguments."""

    def __init__(self, script: str, *words: str, isolation: str = "-I") -> None:
        end, self._hold = os.pipe()
        command = [sys.executable, isolation, script, str(end), *words, str(GRACE_S)]
        try:
            # It may outlive this process, and must not hold a pipe open on which a caller waits.
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
        Wait until the reaper has removed all objects, or until the container engine does not answer.

        Without *in_peace* another object may still be created.
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
            # It continues by itself. Popen would warn, when collected, that its process was not waited for.
            self._process.returncode = 0
