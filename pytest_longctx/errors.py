"""
Exceptions that this package raises deliberately.

    LongctxError
    ├── UsageError      wrong user input: an option, a name, a combination
    ├── TableError      invalid file of a finding, a deployment or signatures
    ├── ModelError      model not available: no such folder, no such synthetic model
    ├── PromptError     no prompt of that length can be built
    ├── LaunchError     server not started: engine not installed, port in use
    ├── BootError       server started but not ready; contains the observation
    ├── UnservedError   a required request was not answered; in `exchange`, because it contains an exchange
    ├── CacheError      a prefix cache should be empty and is not, or its state is unknown
    └── ResultsError    unreadable results file: no header, no footer

A LaunchError is an environment problem; no finding is judged. A BootError is evidence: the engine ran and failed, and a
finding can document exactly this failure.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from pytest_longctx.observation import Observation


class LongctxError(Exception):
    """Base class of all errors of this package. Its text can be shown without a traceback."""


class UsageError(LongctxError):
    """The user's input is wrong: an option, a name or a combination."""


class TableError(LongctxError):
    """A TOML file is invalid. The text names the file and the key."""


class ModelError(LongctxError):
    """The model is not available on this machine."""


class PromptError(LongctxError):
    """A prompt of the requested length cannot be made."""


class NoExactTextError(PromptError):
    """A text has no end that gives exactly the requested length. Another text may have one."""


class LaunchError(LongctxError):
    """The server could not be started because of the environment."""


class BootError(LongctxError):
    """The server was started and did not become ready."""

    def __init__(self, message: str, observation: Observation, log: Path | None = None) -> None:
        super().__init__(message)
        self.observation = observation
        self.log = log

    def with_rows(self, word: str, rows: Iterable[str]) -> "BootError":
        """Return the error with *rows*, each after *word*, before its remedy."""
        head, remedy, rest = str(self).rpartition("\n  try ")
        more = "".join(f"\n  {word:<8} {row}" for row in rows)
        return BootError(f"{head}{more}{remedy}{rest}", self.observation, self.log) if more and remedy else self


class CacheError(LongctxError):
    """A prefix cache that should be empty is not, or its state is unknown."""


class ResultsError(LongctxError):
    """A results file cannot be read."""


_LONGEST_NAME: Final = 200


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """
    Return the error text for an unknown name: the nearest known name, then all known names.

    >>> unknown("backend", "vlm", ["vllm", "sglang"])
    "unknown backend 'vlm': did you mean 'vllm'? Known: sglang, vllm"
    """
    names = sorted(known)
    name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    near = get_close_matches(name, names, n=1)
    guess = f": did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{guess} Known: {', '.join(names) or 'none'}"
