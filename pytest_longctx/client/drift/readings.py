"""Scores of several texts on one server, read several times alone and beside other requests, and their file format."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from pytest_longctx.client.drift import scoring
from pytest_longctx.client.drift.scores import TOP_TOKENS, Array, Scores
from pytest_longctx.client.server import Server
from pytest_longctx.errors import ResultsError
from pytest_longctx.processes.progress import ProgressCallback
from pytest_longctx.prompts import Prompt

_FORM: Final = 1
READS: Final = 2
"""Reads of each text for one comparison: one alone, and one together with all other texts."""


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """The scores of every text in every read. Reads with even numbers ran alone, the others beside other requests."""

    texts: str
    """Digest of the texts in their order. Only readings with equal digests can be compared."""
    reads: tuple[tuple[Scores, ...], ...]
    """The scores of each text, one list for each read."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """The server and the time, as text."""


def digest(texts: Sequence[Prompt]) -> str:
    """Return the digest of the token ids of *texts* in their order: 12 hex digits."""
    return hashlib.sha256("".join(text.digest for text in texts).encode()).hexdigest()[:12]


def read(server: Server, texts: Sequence[Prompt], count: int, watch: ProgressCallback) -> Readings:
    """
    Return the scores of *texts* from *count* reads on *server*: alone, then all at once, and so on.

    Raises `UnservedError` and `LaunchError`.
    """
    reads = [tuple(scoring.score(server, texts, watch, at_once=number % 2 == 1)) for number in range(count)]
    return Readings(digest(texts), tuple(reads))


def path_of(folder: Path, deployment: str, texts: str, count: int) -> Path:
    """Return the path in *folder* for the readings of *count* reads of *texts* on *deployment*."""
    return folder / f"{deployment}.{texts}-{count}.npz"


def save(readings: Readings, path: Path) -> None:
    """Write *readings* to *path*, with the facts of the server."""
    about = json.dumps({"form": _FORM, "texts": readings.texts, "facts": dict(readings.facts)})
    arrays: dict[str, Array] = {"about": np.frombuffer(about.encode(), dtype=np.uint8)}
    for name in ("ids", "logprobs", "said"):
        arrays[name] = np.stack([np.stack([getattr(each, name) for each in texts]) for texts in readings.reads])
    arrays["said_ids"] = np.stack([each.said_ids for each in readings.reads[0]])
    whole = io.BytesIO()
    np.savez_compressed(whole, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole.getvalue())


def load(path: Path) -> Readings:
    """Return the readings from the file *path*. Raises `ResultsError` if the file has none."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            return _loaded(found)
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        raise ResultsError(f"{path}: must be a file of readings of a 'drift' finding: {problem}") from None


def _loaded(found: Any) -> Readings:
    """Return the readings in the arrays *found*. Raises `ValueError` and `LookupError`."""
    about: dict[str, Any] = json.loads(bytes(found["about"]))
    ids, logprobs, said, said_ids = (found[name] for name in ("ids", "logprobs", "said", "said_ids"))
    shapes = [each.shape for each in (ids, logprobs, said, said_ids)]
    if about["form"] != _FORM or shapes != [(*said.shape, TOP_TOKENS)] * 2 + [said.shape, said.shape[1:]]:
        raise ValueError(
            f"its format is {about['form']} and must be {_FORM}; or the shapes of its arrays do not match: {shapes}"
        )
    reads = (
        tuple(Scores(*parts) for parts in zip(ids[number], logprobs[number], said_ids, said[number], strict=True))
        for number in range(len(said))
    )
    return Readings(str(about["texts"]), tuple(reads), dict(about["facts"]))
