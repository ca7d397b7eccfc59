"""Which findings are judged on which deployments: the one rule that runs and plans share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.findings.ask import Question
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Conditions, Mismatch, mismatch
from pytest_longctx.toml import overlap


@dataclass(frozen=True, slots=True)
class Case:
    """One finding to be judged on one deployment; *misfit* says why that cannot be."""

    finding: Finding
    deployment: Deployment
    misfit: Mismatch | None = None

    @property
    def id(self) -> str:
        """The case in a test's id; what was published is about no deployment."""
        return self.finding.id if self.finding.on_paper else f"{self.finding.id}-{self.deployment.name}"

    @property
    def patience_s(self) -> float | None:
        """
        The longest the whole test may take if no deadline of a boot or a request is missed; None where that is not known.

        For whoever ends tests that take too long: ended sooner, a test causes the failure it reports.
        """
        ask, one = self.finding.ask, self.deployment
        times = _REQUESTS.get(self.finding.question)
        if times is None:
            return None
        lengths = ask.every_request(one.max_model_len) or (one.max_model_len or 0,)
        if self.finding.question == "accounting":
            lengths = (_SHORT_TOKENS,) * (ask.requests or _SHORT_REQUESTS)
        each_s = (one.timeouts.request_s(length, ask.output_tokens) for length in lengths)
        return one.timeouts.boot_limit_s + ask.arriving_s + times * sum(each_s)


_SHORT_TOKENS, _SHORT_REQUESTS = 8193, 22
"""Of the question ``accounting``: its longest prompt, and how many it sends unless it is told."""
_REQUESTS: Mapping[Question, int] = MappingProxyType(
    {
        **dict.fromkeys(
            ("boots", "boot-fails", "claimed", "linted", "ratio", "served", "over-limit", "ladder", "load"), 1
        ),
        **dict.fromkeys(("retrieval", "precision", "kv-dtype"), 1),
        "repeated": 2,
        "logged-rate": 2,  # one, and the windows of the log before and after it
        "turns": 16,
        "reset": 4,  # three readings, and the reset itself
        "accounting": 1,
        "disconnect": 8,  # four canaries, the prompts of three tries, and the wait for the end of work
        "haystack": 16,
        "longest": 32,
    }
)
"""How often a question sends its requests, at the most."""


def match(
    wanted: Iterable[Finding],
    deployments: Sequence[Deployment],
    conditions: Callable[[Deployment, Finding], Conditions],
) -> list[Case]:
    """
    Every case: a finding on each deployment in its scope, else on the one that misses by least.

    A finding about something else altogether is left out; one that misses by its hardware, version or length is not, so that
    the run can say so. What was published is judged once, without a server.
    """
    found: list[Case] = []
    for finding in wanted:
        if finding.status == "withdrawn":
            continue
        if finding.on_paper:
            # It needs no server; the deployment only gives the case a place in the run.
            ours = (one for one in deployments if not finding.scope.backend or one.backend in finding.scope.backend)
            found += [Case(finding, one) for one in islice(ours, 1)]
            continue
        cases = [Case(finding, one, mismatch(finding, conditions(one, finding), settled=False)) for one in deployments]
        fitting = [case for case in cases if case.misfit is None]
        near = [case for case in cases if case.misfit is not None and not case.misfit.elsewhere]
        nearest = [max(near, key=lambda case: case.misfit.depth if case.misfit else 0)] if near else []
        found += fitting or nearest
    return found


def dead(wanted: Iterable[Finding], deployments: Sequence[Deployment]) -> list[Finding]:
    """The findings that no deployment could judge, whatever machine the run had: their scopes do not meet."""
    return [finding for finding in wanted if not any(_meet(finding, one) for one in deployments)]


def _meet(finding: Finding, one: Deployment) -> bool:
    hardware = Hardware.parse(one.hardware) if one.hardware else None
    here = Conditions(one, hardware, None, one.max_model_len)
    return mismatch(finding, here, settled=False) is None and overlap(finding.scope.version, one.version)
