"""Start a cleanup process, which removes all objects that one run has created, as soon as the run ends or is killed."""

import os
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

from pytest_longctx.processes import GRACE_S

_UNSETTLED_S: Final = 10.0


class CleanupProcess:
    """A process that runs *script* with three arguments: a pipe, *words*, and the grace period in seconds."""

    def __init__(self, script: str, *words: str, isolation: str = "-I") -> None:
        end, self._hold = os.pipe()
        command = [sys.executable, isolation, script, str(end), *words, str(GRACE_S)]
        try:
            # It may outlive this process. It must not keep a pipe open on which a caller waits.
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
        self.finish(all_created=False)

    def finish(self, *, all_created: bool) -> None:
        """
        Wait until the process has removed all objects, for a limited time. After that time, the process continues
        alone.

        *all_created*: no request for another object is in progress.
        """
        if self._hold < 0:
            return
        if all_created:
            os.write(self._hold, b".")
        os.close(self._hold)
        self._hold = -1
        try:
            self._process.wait(timeout=2 * GRACE_S if all_created else _UNSETTLED_S)
        except subprocess.TimeoutExpired:
            # Popen warns at its deletion about a process without a return code.
            self._process.returncode = 0
