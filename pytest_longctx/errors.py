"""
Everything this package raises on purpose.

    LongctxError
    ├── UsageError      something that was typed is wrong: an option, a name, a combination
    ├── TableError      a finding, a deployment or a signature file is wrong
    ├── ModelError      the model cannot be had: no such folder, no such made model
    ├── PromptError     a prompt of that length cannot be built
    ├── LaunchError     the server could not even be tried: engine not installed, port taken
    ├── BootError       the server was tried and did not come up; carries what was seen of it
    ├── UnservedError   a request that a test needed an answer to came to none; in `exchange`, for it carries one
    ├── CacheError      a prefix cache was to be empty and is not, or nobody can tell
    └── ResultsError    a results file cannot be read: no header, no footer

A LaunchError is trouble with the machine and judges nothing. A BootError is evidence: the engine ran and failed, and a
finding may have expected just that.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from pytest_longctx.observation import Observation


class LongctxError(Exception):
    """The root of the tree; its text is fit to be shown without a traceback."""


class UsageError(LongctxError):
    """Something that was typed is wrong."""


class TableError(LongctxError):
    """A TOML file is wrong; the text names the file and the key."""


class ModelError(LongctxError):
    """The model cannot be had."""


class PromptError(LongctxError):
    """A prompt of that length cannot be built."""


class LaunchError(LongctxError):
    """The server could not even be tried."""


class BootError(LongctxError):
    """The server was tried and did not come up."""

    def __init__(self, message: str, observation: Observation, log: Path | None = None) -> None:
        super().__init__(message)
        self.observation = observation
        self.log = log


class CacheError(LongctxError):
    """A prefix cache that was to be emptied was not, or nobody can tell."""


class ResultsError(LongctxError):
    """A results file cannot be read."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """
    One line for a name that is not known: the nearest one first, then all of them.

    >>> unknown("backend", "vlm", ["vllm", "sglang"])
    "unknown backend 'vlm': did you mean 'vllm'? Known: sglang, vllm"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    guess = f": did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{guess} Known: {', '.join(names) or 'none'}"
