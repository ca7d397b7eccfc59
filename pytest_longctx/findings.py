"""A finding: one documented result, where it holds, what it expects, and how far a measurement may stray from it."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from pytest_longctx import tables
from pytest_longctx.deployment import HardwareName
from pytest_longctx.errors import TableError, unknown
from pytest_longctx.markers import LENGTHS, THEMES
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Outcome

Question = Literal["boots", "boot-fails", "served", "over-limit", "accounting", "repeated", "load", "claimed", "linted"]
"""What a suite does to judge a finding; one test function answers each."""

Status = Literal["confirmed", "disputed", "predicted", "withdrawn"]


def _markers(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in LENGTHS and name not in THEMES:
            raise ValueError(unknown("marker", name, (*LENGTHS, *THEMES)))
    return names


class Bound(tables.Table):
    """How far one figure may go. All limits are absolute after `limits`; a bound without limits only reports."""

    unit: str
    reference: float | None = None
    """The documented value."""
    tolerance: Annotated[str | None, Field(pattern=r"^\d+(\.\d+)?%?$")] = None
    """How far from the reference, either way: ``"5%"`` of it, or ``"0.01"`` in the bound's unit."""
    exactly: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    runs: Annotated[int, Field(ge=1)] | None = None
    """How many runs the reference rests on."""
    because: str = ""
    """Where the tolerance comes from."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tolerance is None) != (self.reference is None) and self.tolerance is not None:
            raise ValueError("a tolerance needs a reference")
        absolute = self.at_least is not None or self.at_most is not None
        if (self.exactly is not None) + absolute + (self.tolerance is not None) > 1:
            raise ValueError("give only one of: exactly, at_least with at_most, reference with tolerance")
        if self.tolerance is not None and not self.because:
            raise ValueError("a tolerance needs `because`: where it comes from")
        low, high = self.limits
        if low is not None and high is not None and low > high:
            raise ValueError(f"nothing can be both at least {low:g} and at most {high:g}")
        return self

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """The lowest and the highest value that holds; None where that side is open."""
        low, high = self.at_least, self.at_most
        if self.exactly is not None:
            low = high = self.exactly
        if self.reference is not None and self.tolerance is not None:
            number = float(self.tolerance.removesuffix("%"))
            margin = abs(self.reference) * number / 100 if self.tolerance.endswith("%") else number
            low, high = self.reference - margin, self.reference + margin
        return low, high


class Source(tables.Table):
    """Where the finding was documented."""

    document: str
    where: str = ""
    date: dt.date | None = None


class Scope(tables.Table):
    """Where the finding holds; a line that is left out holds everywhere."""

    backend: tables.Names = ()
    version: tables.VersionRange | None = None
    hardware: HardwareName | None = None
    model: tables.Names = ()
    """Model names; ``*`` and ``?`` are wildcards."""
    deployment: tables.Names = ()


class Ask(tables.Table):
    """What is sent."""

    prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    output_tokens: Annotated[int, Field(ge=1)] = 32
    requests: Annotated[int, Field(ge=1)] | None = None
    """For a load: how many requests in all."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """For a load: how many of them at once, at most."""
    command: str | None = None
    """Of a start that was published: the ``docker run`` line, or a small script around it; what is in it is only read."""
    pod: str | None = None
    """Of a start that was published: the Pod, as JSON."""
    engine: str | None = None
    """The engine whose flags that start has."""
    boot_s: float | None = None
    """How long that boot took, where it was seen."""
    over_limit_tokens: int | None = None
    """How many tokens prompt and answer together go over max_model_len; 0 and less must still fit."""

    def prompt_length(self, max_model_len: int | None) -> int | None:
        """The prompt's length in tokens; None where it hangs on a max_model_len that is not known."""
        if self.over_limit_tokens is None:
            return self.prompt_tokens
        return None if max_model_len is None else max_model_len + self.over_limit_tokens - self.output_tokens


class Claim(tables.Table):
    """Published figures that arithmetic can judge without a server; those left out were not published."""

    shape: str
    """The model, by its name in `pytest_longctx.physics.shape.known`."""
    tokens: Annotated[int, Field(ge=1)]
    """The context they are about."""
    hardware: HardwareName | None = None
    value_bytes: Literal[1, 2] = 2
    """Bytes of a value in the KV cache and in the matrix units."""
    read_s: float | None = None
    """The time in which the whole context is said to have been read."""
    cached_tokens: int | None = None
    """How much of it a cache answered, by the log of that run."""
    logged_tokens_per_s: float | None = None
    kv_gib: float | None = None
    weights_gib: float | None = None
    """BF16 weights on one device."""
    moved_s: float | None = None
    """The time in which its KV cache is said to have been stored or loaded."""
    moved_gib_per_s: float | None = None
    slow_s: float | None = None
    fast_s: float | None = None
    speedup: float | None = None
    """How many times faster *fast_s* is said to be than *slow_s*."""


class Expect(tables.Table):
    """What must be seen. *signature* names a line of the backend's catalogue."""

    outcome: Outcome = "serves"
    phase: str | None = None
    signature: str | None = None


class Known(tables.Table):
    """A failure that is known: it must fail, and is reported with its issue."""

    issue: str
    since: dt.date


class Finding(tables.Table):
    """One documented result."""

    id: Annotated[str, Field(pattern=r"^[A-Z]{2,8}-\d{4}$")]
    title: str
    question: Question
    markers: Annotated[tables.Names, AfterValidator(_markers)]
    status: Status
    reviewed: dt.date
    source: Source
    scope: Scope = Scope()
    ask: Ask = Ask()
    claim: Claim | None = None
    expect: Expect = Expect()
    bounds: dict[str, Bound] = Field(default_factory=dict)
    known: Known | None = None
    note: str = ""
    """Where the document was wrong, or what it left out, in prose."""

    @property
    def on_paper(self) -> bool:
        """Whether it is about what was published, and judged without a server."""
        return self.question in ("claimed", "linted")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, bound in self.bounds.items():
            if name not in MEASURES:
                raise ValueError(f"bounds: {unknown('measure', name, MEASURES)}")
            if bound.unit != MEASURES[name].unit:
                raise ValueError(f"bounds.{name}.unit: {bound.unit!r}, but {name} is in {MEASURES[name].unit!r}")
        if not self.markers:
            raise ValueError("markers: a finding needs at least one, or no run would select it")
        return self

    @model_validator(mode="after")
    def _asks_enough(self) -> Self:
        if self.question == "served" and (self.ask.prompt_tokens is None) == (self.ask.over_limit_tokens is None):
            raise ValueError("ask: a 'served' finding needs either prompt_tokens or over_limit_tokens")
        if self.question == "over-limit" and (self.ask.over_limit_tokens or 0) < 1:
            raise ValueError("ask.over_limit_tokens: an 'over-limit' finding must go at least 1 token over")
        if self.question in ("repeated", "load") and self.ask.prompt_tokens is None:
            raise ValueError(f"ask.prompt_tokens: a {self.question!r} finding needs it")
        if self.question == "load" and (self.ask.requests is None or self.ask.concurrency is None):
            raise ValueError("ask: a 'load' finding needs requests and concurrency")
        if (self.question == "claimed") != (self.claim is not None):
            raise ValueError("claim: a 'claimed' finding needs it, and no other has one")
        if (self.question == "linted") != ((self.ask.command is None) != (self.ask.pod is None)):
            raise ValueError("ask: a 'linted' finding needs a command or a pod, and no other has one")
        return self


def questions() -> tuple[str, ...]:
    """Every question a suite can answer."""
    return get_args(Question)


def load_all(folders: tuple[Path, ...]) -> dict[str, Finding]:
    """Every finding under *folders*, by id. Raises `TableError`."""
    found: dict[str, Finding] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.toml")):
        finding = tables.load(path, Finding)
        if path.stem != finding.id and not path.stem.startswith(f"{finding.id}-"):
            raise TableError(f"{path}: the file must be called {finding.id}.toml or {finding.id}-some-words.toml")
        if finding.id in found:
            raise TableError(f"{path}: there is another finding with the id {finding.id}")
        found[finding.id] = finding
    return found
