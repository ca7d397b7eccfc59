"""Keep the log of the last good boot of each deployment between runs, and compare a failed boot with it."""

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_longctx.diagnosis.against import differences
from pytest_longctx.diagnosis.log_file import read_file
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.redaction import masked

_MOST_BYTES: Final = 4 << 20
"""Ten times the log of a boot."""


@dataclass(frozen=True, slots=True)
class GoodBoots:
    """The kept logs, one for each deployment of a backend."""

    folder: Path

    def path(self, backend: str, deployment: str) -> Path:
        """Return where the log of *deployment* is kept; the file may not exist."""
        return self.folder / f"{backend}-{deployment}.log"

    def keep(self, log: Path, backend: str, deployment: str, secrets: tuple[str, ...] = ()) -> None:
        """Keep *log*, with *secrets* masked, as that of the last good boot. Without a writable folder nothing changes."""
        kept = self.path(backend, deployment)
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with log.open("rb") as file:
                text = file.read(_MOST_BYTES).decode("utf-8", "replace")
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=kept.parent, delete=False) as made:
                made.write(masked(text, secrets))
            Path(made.name).replace(kept)

    def compared(self, bad: LogReader, log: Path, backend: str, deployment: str) -> list[str]:
        """Return how the failed boot *bad*, whose log is at *log*, differs from the last good one; empty without one."""
        kept = self.path(backend, deployment)
        try:
            good = read_file(kept, bad.catalogue, bad.version)
            with log.open(encoding="utf-8", errors="replace") as mine, kept.open(encoding="utf-8") as theirs:
                return list(differences(bad, good, mine, theirs))
        except OSError:
            return []
