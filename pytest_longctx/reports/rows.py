"""
The rows of a results file as checked models, because a file may be old, cut off, merged by hand, or made by an
attacker.

Readers use the checked rows as plain dicts. A field that no reader uses is not checked, and an unknown one is kept. Figures are
finite and at most 1e15 in size, so that sums, ratios and axes of plots stay finite too.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from pytest_longctx.errors import ResultsError
from pytest_longctx.findings.verdicts import WORST_FIRST


def _word(value: object) -> object:
    if value not in WORST_FIRST:
        raise ValueError(f"must be a verdict; known: {', '.join(WORST_FIRST)}")
    return value


_LARGEST: Final = 1e15
Figure = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
Time = Annotated[float, Field(ge=0, le=1e11)]
"""Seconds since 1970, or a duration."""
Tokens = Annotated[int, Field(ge=0, le=10**12)]
Tolerance = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?%?$")]
Name = Annotated[str, StringConstraints(max_length=300)]
PathText = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=4096)]
Verdict = Annotated[str, BeforeValidator(_word)]


class Row(BaseModel):
    """Base class of all rows."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Header(Row):
    """The first row: the options, the machine and the software of the run."""

    started: Name
    backend: Name = ""
    launcher: Name = ""
    hardware: Name = ""
    root: str = ""
    arguments: list[str] = []
    options: list[str] | None = None
    machine: dict[str, Any] = {}
    conditions: dict[str, str] = {}
    seed: Annotated[int, Field(ge=0, le=10**20)] | None = None
    resumes: PathText | None = None
    merged: list[str] = []


class Shard(Row):
    """The part of a split run that a file contains."""

    shard: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}/[0-9]{1,4}$")]
    split: str


class Footer(Row):
    """The last row of a complete run."""

    finished: str
    exit_code: Annotated[int, Field(ge=-1000, le=1000)]
    verdicts: dict[str, Tokens]
    shard: Shard | None = None


class BoundRow(Row):
    """A bound of a figure, as the finding states it."""

    reference: Figure | None = None
    tolerance: Tolerance | None = None
    exactly: Figure | None = None
    at_least: Figure | None = None
    at_most: Figure | None = None


class VerdictRow(Row):
    """The row of one verdict."""

    test: str
    finding: str
    verdict: Verdict
    title: str
    why: str
    said: str
    status: str
    measured: dict[str, Figure]
    server: dict[str, str]
    bounds: dict[str, BoundRow] = {}
    duration_s: Time = 0.0
    source: str = ""
    content: str = ""
    carried: str = ""
    again: str = ""
    measured_by: str = ""
    outcome: str = ""
    markers: str = ""
    explained: str = ""


class Term(Row):
    """One term of a predicted memory."""

    name: str
    host: bool
    size_bytes: Figure
    bounds_bytes: list[Figure] | None = None


class Predicted(Row):
    """The prediction of the plan for a boot."""

    concurrency: Figure | None = None
    longest_tokens: Figure | None = None
    failing_bytes: Figure | None = None
    terms: list[Term] = []


class BootRow(Row):
    """The row of one boot."""

    outcome: str | None
    deployment: str = ""
    seconds: Time = 0.0
    started_s: Time | None = None
    signature: str | None = None
    said: str = ""
    explained: str | None = None
    figures: dict[str, Figure] = {}
    words: dict[str, str] = {}
    predicted: Predicted | None = None
    log: str | None = None
    engine: str = ""
    model: str = ""
    hardware: str = ""


class RequestRow(Row):
    """The row of one request or one load."""

    deployment: str
    started_s: Time
    ended_s: Time
    test: str = ""
    sent_tokens: Tokens | None = None
    requests: Tokens | None = None
    ttft_s: Time | None = None
    ending: str | None = None


class VitalsRow(Row):
    """The row of one sample of a server and its machine."""

    at_s: Time
    figures: dict[str, Figure | list[Figure | None] | None]
    deployment: str = ""
    said: str = ""


class RetrievalRow(Row):
    """The row of one position of one prompt with hidden facts."""

    prompt_tokens: Tokens
    depth: Annotated[float, Field(ge=0, le=1)]
    score: Annotated[float, Field(ge=0, le=1)]
    deployment: str = ""
    test: str = ""


class DriftRow(Row):
    """The row of one stretch of the curve of a 'drift' finding, over the distance from the start of a text."""

    from_tokens: Tokens
    to_tokens: Tokens
    drift_nats: Annotated[float, Field(ge=0, le=_LARGEST)]
    noise_nats: Annotated[float, Field(ge=0, le=_LARGEST)]
    argmax_changed: Annotated[float, Field(ge=0, le=1)]
    deployment: str = ""
    against: str = ""
    finding: str = ""
    test: str = ""


BETWEEN: Mapping[str, type[Row]] = MappingProxyType(
    {
        "boot": BootRow,
        "verdict": VerdictRow,
        "request": RequestRow,
        "vitals": VitalsRow,
        "retrieval": RetrievalRow,
        "drift": DriftRow,
    }
)
"""Kinds of rows between header and footer. A file may lack any of them; a report then omits that part."""
_MODELS: Final[Mapping[str, type[Row]]] = MappingProxyType({"header": Header, **BETWEEN, "footer": Footer})
_SHOWN: Final = 100
"""Characters of a wrong value in a message."""


def check(path: Path, number: int, row: Mapping[str, Any]) -> None:
    """
    Check the *row* in line *number* of the results file at *path*. Raises `ResultsError` that names line,
    field and value.
    """
    kind = row.get("kind")
    if not isinstance(kind, str):
        raise ResultsError(f"{path}: line {number}: a row without a kind")
    if (model := _MODELS.get(kind)) is None:  # of a later version
        return
    try:
        model.model_validate(row)
    except ValidationError as problem:
        errors = problem.errors()
    else:
        return
    lacking = [str(each["loc"][0]) for each in errors if each["type"] == "missing" and len(each["loc"]) == 1]
    if lacking:
        raise ResultsError(f"{path}: line {number}: a row of kind {kind!r} lacks {', '.join(lacking)}")
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"])[:_SHOWN]
    message = first["msg"].removeprefix("Value error, ")
    raise ResultsError(
        f"{path}: line {number}: {place} of a row of kind {kind!r}: {message} (found {repr(first['input'])[:_SHOWN]})"
    )
