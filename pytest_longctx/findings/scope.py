"""Whether a finding applies to this run, and which findings are judged on which deployments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

from pytest_longctx.deployments.deployment import FASTEST, Deployment
from pytest_longctx.deployments.hardware import CPU_FLAGS, Hardware
from pytest_longctx.findings.ask import Question
from pytest_longctx.findings.finding import Finding, Scope
from pytest_longctx.toml import in_range, overlap
from pytest_longctx.units import GiB, duration

_OF_THE_CACHE = frozenset({"repeated", "reset", "turns"})
_CACHE_OFF = (("no-enable-prefix-caching", True), ("enable-prefix-caching", False), ("disable-radix-cache", True))
"""The flags of vLLM and SGLang that turn the prefix cache off."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Known facts of the server on which a finding would be judged; None for an unknown fact."""

    deployment: Deployment
    hardware: Hardware | None = None
    """Hardware of this machine."""
    version: str | None = None
    """The engine's version."""
    max_model_len: int | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    """Textual facts from the boot's log; empty before a boot."""
    host_bytes: float | None = None
    cpu_flags: frozenset[str] | None = None


class Mismatch(NamedTuple):
    """A condition of a finding that a server does not meet. A higher *depth* means that more conditions were met before."""

    depth: int
    line: str

    @property
    def elsewhere(self) -> bool:
        """Whether the finding's scope names another deployment, backend or model."""
        return self.depth < 3


def mismatch(finding: Finding, here: Conditions, *, settled: bool) -> Mismatch | None:
    """
    Return the first condition in the scope of *finding* that *here* does not meet; None if all are met.

    Before a boot (*settled* false), unknown facts may still match. After it they do not: a finding about 8 x H200 is
    not judged on unknown hardware. A finding about published material needs no server, so it always matches.
    """
    if finding.on_paper:
        return None
    deployment, scope = here.deployment, finding.scope
    checks = (
        _named("deployment", deployment.name, scope.deployment)
        or _left_alone(deployment, finding)
        or _flagged(deployment, scope.flags)
        or _uncached(finding, deployment),
        _named("backend", deployment.backend, scope.backend),
        _named("model", deployment.model.name, scope.model)
        or _named("weights", deployment.model.weights, scope.weights),
        _built_for(deployment, scope.hardware, here.hardware, settled=settled),
        machine_lacks(deployment, here.hardware)
        or _of_cpu(here.cpu_flags, scope, settled=settled)
        or _computed_in(deployment, scope.dtype)
        or _small(here.host_bytes, scope.host_gib_at_most, settled=settled),
        _versioned(here.version, scope.version, settled=settled) or _known_to(deployment, here.version),
        _long_enough(finding, deployment, here.max_model_len, settled=settled),
        _logged("architecture", here.words, scope.architecture, settled=settled)
        or _logged("attention_backend", here.words, scope.attention_backend, settled=settled),
    )
    return next((Mismatch(depth, line) for depth, line in enumerate(checks) if line), None)


def machine_lacks(deployment: Deployment, hardware: Hardware | None) -> str | None:
    """Return why *deployment* is out of scope on *hardware*; None if it can run there, or if either is unknown."""
    if deployment.hardware is None or hardware is None or hardware.carries(Hardware.parse(deployment.hardware)):
        return None
    return f"hardware: needs {deployment.hardware}, this machine has {hardware}"


def _named(line: str, name: str, wanted: tuple[str, ...]) -> str | None:
    if not wanted or any(fnmatchcase(name, pattern) for pattern in wanted):
        return None
    return f"{line}: {name} is not {' or '.join(wanted)}"


def _flagged(deployment: Deployment, wanted: tuple[str, ...]) -> str | None:
    if not wanted or any(deployment.flags.get(name, False) is not False for name in wanted):
        return None
    return f"flags: {deployment.name} sets none of {', '.join(wanted)}"


def _built_for(deployment: Deployment, wanted: str | None, hardware: Hardware | None, *, settled: bool) -> str | None:
    if wanted is None:
        return None
    found = deployment.hardware or (str(hardware) if hardware else None)
    if found is None:
        return f"hardware: unknown; the finding needs {wanted}; set --longctx-hardware" if settled else None
    return None if found == wanted else f"hardware: {found} is not {wanted}"


def _versioned(version: str | None, wanted: str | None, *, settled: bool) -> str | None:
    if wanted is None:
        return None
    if version is None:
        return f"version: unknown; the finding needs {wanted}" if settled else None
    return None if in_range(version, wanted) else f"version: {version} is not {wanted}"


def _known_to(deployment: Deployment, version: str | None) -> str | None:
    """
    Return why the engine's version does not know the flags of *deployment*; None if it knows them, or if the version is
    unknown.
    """
    if version is None or deployment.version is None or in_range(version, deployment.version):
        return None
    return f"version: {version} is not {deployment.version}, the versions for which {deployment.name} is intended"


def _of_cpu(flags: frozenset[str] | None, scope: Scope, *, settled: bool) -> str | None:
    if not scope.cpu and not scope.cpu_without:
        return None
    parts = (" or ".join(scope.cpu), f"no {' and no '.join(scope.cpu_without)}" if scope.cpu_without else "")
    wanted = " and ".join(part for part in parts if part)
    if flags is None:
        return f"cpu: unknown; the finding needs {wanted}" if settled else None
    if (not scope.cpu or flags & set(scope.cpu)) and not flags & set(scope.cpu_without):
        return None
    return f"cpu: needs {wanted}; this CPU has {', '.join(one for one in CPU_FLAGS if one in flags) or 'none of them'}"


def _computed_in(deployment: Deployment, wanted: tuple[str, ...]) -> str | None:
    found = deployment.flags.get("dtype", FASTEST)
    if found == FASTEST or not wanted or found in wanted:
        return None
    return f"dtype: {deployment.name} computes in {found} here; the finding covers {' or '.join(wanted)}"


def _small(host_bytes: float | None, at_most_gib: float | None, *, settled: bool) -> str | None:
    if at_most_gib is None:
        return None
    if host_bytes is None:
        return f"host memory: unknown; the finding needs at most {at_most_gib:g} GiB" if settled else None
    return (
        None
        if host_bytes <= at_most_gib * GiB
        else f"host memory: {host_bytes / GiB:.0f} GiB; the finding needs at most {at_most_gib:g} GiB"
    )


def _logged(line: str, labels: Mapping[str, str], wanted: tuple[str, ...], *, settled: bool) -> str | None:
    if not wanted or not settled:
        return None
    found = labels.get(line)
    return _named(line, found, wanted) if found else f"{line}: not in the log; the finding needs {' or '.join(wanted)}"


def _left_alone(deployment: Deployment, finding: Finding) -> str | None:
    if finding.scope.deployment:
        return None
    if deployment.only_named:
        return f"deployment: {deployment.name} is judged only by findings that name it"
    if deployment.only_questions and finding.question not in deployment.only_questions:
        questions = " or ".join(deployment.only_questions)
        return f"deployment: {deployment.name} is judged only by findings that ask {questions}, or that name it"
    return None


def _uncached(finding: Finding, deployment: Deployment) -> str | None:
    # A finding that names the deployment may be about a cache outside the engine.
    if finding.scope.deployment or finding.question not in _OF_THE_CACHE:
        return None
    off = next((name for name, value in _CACHE_OFF if deployment.flags.get(name) is value), None)
    return f"prefix cache: {deployment.name} disables it by {off}" if off else None


def _long_enough(finding: Finding, deployment: Deployment, max_model_len: int | None, *, settled: bool) -> str | None:
    room, asked = max_model_len or deployment.max_model_len, finding.ask
    if settled and room is None and asked.over_limit_tokens is not None:
        return "max_model_len: unknown, but the finding's prompt length depends on it; set it in the deployment"
    length, most = asked.prompt_length(room), deployment.longest_prompt
    fixed = asked.over_limit_tokens is None
    if fixed and room is not None and length is not None and length + asked.output_tokens > room:
        return f"context: {length:,} + {asked.output_tokens} tokens exceed max_model_len {room:,}"
    if length is not None and length < 1:
        return f"context: max_model_len {room:,} leaves no room for a prompt in addition to {asked.output_tokens} output tokens"
    # A refusal costs nothing; a prompt that is served must be affordable here.
    if finding.question != "over-limit" and length is not None and most is not None and length > most:
        return f"prompt: {length:,} tokens; longest_prompt here is {most:,}"
    if finding.question != "over-limit" and length is not None and deployment.longest_prompt_s is not None:
        return _affordable(length, deployment, deployment.longest_prompt_s)
    return None


def _affordable(length: int, deployment: Deployment, most_s: float) -> str | None:
    expected_s = deployment.timeouts.expected_prefill_s(length)
    if expected_s <= most_s:
        return None
    return (
        f"prompt: {length:,} tokens are expected to take {duration(expected_s)} on this machine; longest_prompt_s of "
        f"{deployment.name} is {most_s:g}"
    )


@dataclass(frozen=True, slots=True)
class Case:
    """One finding on one deployment. *misfit* is the reason why the finding cannot be judged there."""

    finding: Finding
    deployment: Deployment
    misfit: Mismatch | None = None

    @property
    def id(self) -> str:
        """Id of the case within a test's id. A finding about published material has no deployment."""
        return self.finding.id if self.finding.on_paper else f"{self.finding.id}-{self.deployment.name}"

    @property
    def patience_s(self) -> float | None:
        """
        The longest duration of the case's test within all deadlines of boot and requests, in seconds; None if unknown.

        It is for test timeouts: a shorter one would cause the failure that the test reports.
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
"""Return the longest prompt of the question ``accounting``, and its default number of requests."""
_REQUESTS: Mapping[Question, int] = MappingProxyType(
    {
        **dict.fromkeys(
            ("boots", "boot-fails", "claimed", "linted", "ratio", "served", "over-limit", "ladder", "load"), 1
        ),
        **dict.fromkeys(("retrieval", "precision", "kv-dtype", "ruler"), 1),
        "repeated": 2,
        "logged-rate": 2,  # one, and the log windows before and after it
        "turns": 16,
        "reset": 4,  # three readings, and the reset itself
        "accounting": 1,
        "disconnect": 8,  # four canaries, the prompts of three attempts, and the wait for the end of work
        "haystack": 16,
        "continuations": 16,
        **dict.fromkeys(("drift", "repeatable"), 128),
        "path": 128,  # fifty at once, twice, and the controls
        "longest": 32,
    }
)
"""For each question, the most times that it sends its requests."""


def match(
    wanted: Iterable[Finding],
    deployments: Sequence[Deployment],
    conditions: Callable[[Deployment, Finding], Conditions],
) -> list[Case]:
    """
    Return the cases of every finding: on the deployments in its scope, else on the deployment that meets most
    conditions.

    A finding about another deployment, backend or model is left out. A finding whose hardware, version or length
    differs is kept, so that the run can report it. A finding about published material is judged once, without a server.
    """
    found: list[Case] = []
    for finding in wanted:
        if finding.status == "withdrawn":
            continue
        if finding.on_paper:
            # No server is needed; the deployment only gives the case a place in the run.
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
    """Return the findings that no deployment can judge on any machine, because their scopes do not overlap."""
    return [finding for finding in wanted if not any(_meet(finding, one) for one in deployments)]


def _meet(finding: Finding, one: Deployment) -> bool:
    hardware = Hardware.parse(one.hardware) if one.hardware else None
    here = Conditions(one, hardware, None, one.max_model_len)
    return mismatch(finding, here, settled=False) is None and overlap(finding.scope.version, one.version)
