"""A finding: one documented result, with its scope, its expectation, and the tolerance of a measurement."""

import datetime as dt
from math import hypot
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pytest_longctx import paths, toml
from pytest_longctx.deployments.deployment import HardwareName, Weights
from pytest_longctx.errors import TableError, unknown
from pytest_longctx.findings.ask import Ask, Claim, Question, missing
from pytest_longctx.findings.markers import LENGTHS, THEMES
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Outcome

Status = Literal["confirmed", "documented", "disputed", "predicted", "withdrawn"]


def _markers(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in LENGTHS and name not in THEMES:
            raise ValueError(unknown("marker", name, (*LENGTHS, *THEMES)))
    return names


class Bound(toml.Table):
    """Limits of one metric, which `limits` makes absolute. A bound without limits only reports the metric."""

    unit: str
    reference: float | None = None
    """The documented value."""
    tolerance: Annotated[str | None, Field(pattern=r"^[0-9]+(\.[0-9]+)?%?$")] = None
    """Allowed deviation from the reference in both directions: ``"5%"`` of it, or ``"0.01"`` in the bound's unit."""
    stderr: Annotated[float, Field(ge=0)] | None = None
    """Standard error of the reference, if it is the score of a sample."""
    sigmas: Annotated[float, Field(gt=0)] | None = None
    """Allowed deviation in both directions, in standard errors of the difference between reference and measurement."""
    exactly: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    runs: Annotated[int, Field(ge=1)] | None = None
    """Number of runs behind the reference."""
    because: str = ""
    """The reason for the tolerance."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tolerance is None) != (self.reference is None) and self.tolerance is not None:
            raise ValueError("a tolerance needs a reference")
        if (self.stderr is None) != (self.sigmas is None) or (self.sigmas is not None and self.reference is None):
            raise ValueError("stderr and sigmas go together and need a reference")
        absolute = self.at_least is not None or self.at_most is not None
        if (self.exactly is not None) + absolute + (self.tolerance is not None) + (self.sigmas is not None) > 1:
            alternatives = "exactly, at_least with at_most, reference with tolerance, reference with stderr and sigmas"
            raise ValueError(f"give only one of: {alternatives}")
        if (self.tolerance is not None or self.sigmas is not None) and not self.because:
            raise ValueError("a tolerance needs `because`, the reason for the tolerance")
        low, high = self.limits
        if low is not None and high is not None and low > high:
            raise ValueError(f"no value can be both at least {low:g} and at most {high:g}")
        return self

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """The lowest and the highest value that the bound allows, for a measurement without error; None for an open side."""
        return self.limits_given(0.0)

    def limits_given(self, measured_stderr: float) -> tuple[float | None, float | None]:
        """
        Return the limits of the bound for a measurement with its own standard error; None for an open side.

        Margin = sigmas x sqrt(stderr^2 + measured_stderr^2), the standard error of a difference of independent samples.
        """
        low, high = self.at_least, self.at_most
        if self.exactly is not None:
            low = high = self.exactly
        if self.reference is not None and self.tolerance is not None:
            number = float(self.tolerance.removesuffix("%"))
            margin = abs(self.reference) * number / 100 if self.tolerance.endswith("%") else number
            low, high = self.reference - margin, self.reference + margin
        if self.reference is not None and self.stderr is not None and self.sigmas is not None:
            margin = self.sigmas * hypot(self.stderr, measured_stderr)
            low, high = self.reference - margin, self.reference + margin
        return low, high


class Source(toml.Table):
    """The document, and its place, that states the finding."""

    document: str
    where: str = ""
    date: dt.date | None = None


class Scope(toml.Table):
    """The conditions under which the finding holds. A missing key sets no condition."""

    backend: toml.Names = ()
    version: toml.VersionRange | None = None
    hardware: HardwareName | None = None
    cpu: toml.Names = ()
    """
    For a CPU: it must have at least one of these processor flags, in the kernel's spelling: ``avx512f``, ``amx_bf16``.
    """
    cpu_without: toml.Names = ()
    """For a CPU: it must have none of these processor flags."""
    dtype: toml.Names = ()
    """The model's compute dtype, if its deployment lets the machine choose it (``dtype = "fastest"``)."""
    host_gib_at_most: Annotated[float, Field(gt=0)] | None = None
    """For a failure due to lack of host memory: the largest host to which it applies."""
    model: toml.Names = ()
    """Model names. ``*`` and ``?`` are wildcards."""
    weights: Annotated[tuple[Weights, ...], toml.LISTED] = ()
    """Origin of the weights."""
    deployment: toml.Names = ()
    flags: toml.Names = ()
    """The deployment must set at least one of these flags, written without dashes."""
    architecture: toml.Names = ()
    """The model's class in the engine's log. It is known only after a boot."""
    attention_backend: toml.Names = ()
    """The attention backend that the engine chose, as named in its log."""


class Expect(toml.Table):
    """The expected observation. *signature* names a pattern in the catalogue of the backend."""

    outcome: Outcome = "serves"
    phase: str | None = None
    signature: str | None = None
    notice: str | None = None
    """A harmless line of that catalogue that must be in the boot's log, such as the warning of a fallback."""


class Known(toml.Table):
    """A known failure: the finding must fail, and its issue is reported."""

    issue: str
    since: dt.date


FindingId = Annotated[str, Field(pattern=r"^[A-Z]{2,8}-[0-9]{4}$")]


class Finding(toml.Table):
    """A documented result, as in one TOML file: its source, its scope, the request, the expected outcome and the bounds."""

    id: FindingId
    title: str
    question: Question
    markers: Annotated[toml.Names, AfterValidator(_markers)]
    status: Status
    reviewed: dt.date
    source: Source
    scope: Scope = Scope()
    ask: Ask = Ask()
    claim: Claim | None = None
    expect: Expect = Expect()
    bounds: dict[str, Bound] = Field(default_factory=dict)
    known: Known | None = None
    cure: FindingId | None = None
    """For an expected failure: the finding about the same configuration with the fix applied."""
    no_cure: str = ""
    """The reason why there is no fix."""
    note: str = ""
    """Errors or omissions of the document, in prose."""

    def divided(self) -> tuple[str, str]:
        """
        Return the deployments of the numerator and the denominator of a ratio; of a drift, the judged one and its
        reference.

        Raises ValueError.
        """
        names, against = self.scope.deployment, self.ask.against
        if self.question == "drift" and names == (against,):
            return names[0], names[0]
        others = [name for name in names if name != against]
        if against is None or len(others) != 1 or len(names) != 2:
            raise ValueError(
                f"scope.deployment: a {self.question!r} finding must name two deployments, and one of them must be ask.against"
            )
        return others[0], against

    @property
    def fails(self) -> bool:
        """Whether the finding expects that the server does not start."""
        return self.question in ("boot-fails", "kv-dtype") and self.expect.outcome != "serves"

    @property
    def on_paper(self) -> bool:
        """Whether the finding is about published material and is judged without a boot."""
        return self.question in ("claimed", "linted", "certified")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, bound in self.bounds.items():
            if name not in MEASURES:
                raise ValueError(f"bounds: {unknown('measure', name, MEASURES)}")
            if bound.unit != MEASURES[name].unit:
                raise ValueError(
                    f"bounds.{name}.unit: {bound.unit!r}, but the unit of {name} is {MEASURES[name].unit!r}"
                )
            if bound.sigmas is not None and f"{name}_stderr" not in MEASURES:
                raise ValueError(f"bounds.{name}.sigmas: {name} is measured without a standard error")
        if (self.cure or self.no_cure) and not self.fails:
            raise ValueError("cure, no_cure: allowed only in a finding that expects a failed boot")
        if self.cure and self.no_cure:
            raise ValueError("cure, no_cure: a finding must not have both keys")
        if not self.markers:
            raise ValueError("markers: a finding needs at least one; without a marker no run selects it")
        return self

    @model_validator(mode="after")
    def _asked(self) -> Self:
        if lack := missing(self.question, self.ask, claimed=self.claim is not None, bounded=bool(self.bounds)):
            raise ValueError(lack)
        if self.question in ("ratio", "drift") or (self.question == "repeatable" and self.ask.against):
            self.divided()
        return self


def load_all(folders: tuple[Path, ...]) -> dict[str, Finding]:
    """Return every finding under *folders*, by id. Raises `TableError`."""
    found: dict[str, Finding] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.toml")):
        finding = toml.load(path, Finding)
        if path.stem != finding.id and not path.stem.startswith(f"{finding.id}-"):
            raise TableError(f"{path}: rename the file to {finding.id}.toml or {finding.id}-some-words.toml")
        if finding.id in found:
            raise TableError(f"{path}: there is another finding with the id {finding.id}")
        found[finding.id] = finding
    return found


def load_findings(*folders: str | Path) -> dict[str, Finding]:
    """
    Return every finding by id: the shipped ones, and those of your *folders*, as for ``--longctx-data``.

    Raises `UsageError` for a folder without data, and `TableError` for a wrong file.
    """
    return load_all(tuple(folder / "findings" for folder in paths.data(map(Path, folders), "load_findings")))
