"""Which findings are judged on which deployments: the one rule that runs and plans share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pytest_longctx.deployment import Deployment
from pytest_longctx.findings import Finding
from pytest_longctx.scope import Conditions, Mismatch, mismatch


@dataclass(frozen=True, slots=True)
class Case:
    """One finding to be judged on one deployment; *misfit* says why that cannot be."""

    finding: Finding
    deployment: Deployment
    misfit: Mismatch | None = None

    @property
    def id(self) -> str:
        """The case in a test's id."""
        return f"{self.finding.id}-{self.deployment.name}"


def match(
    wanted: Iterable[Finding],
    deployments: Sequence[Deployment],
    conditions: Callable[[Deployment, Finding], Conditions],
) -> list[Case]:
    """
    Every case: a finding on each deployment in its scope, else on the one that misses by least.

    A finding about something else altogether is left out; one that misses by its hardware, version or length is not, so that the
    run can say so.
    """
    found: list[Case] = []
    for finding in wanted:
        if finding.status == "withdrawn":
            continue
        cases = [Case(finding, one, mismatch(finding, conditions(one, finding), settled=False)) for one in deployments]
        fitting = [case for case in cases if case.misfit is None]
        near = [case for case in cases if case.misfit is not None and not case.misfit.elsewhere]
        nearest = [max(near, key=lambda case: case.misfit.depth if case.misfit else 0)] if near else []
        found += fitting or nearest
    return found
