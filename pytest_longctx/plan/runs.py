"""Plan of a run: its predicted boots, memory and times, without booting a server."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pytest_longctx.backends import Backend, named
from pytest_longctx.backends.flags import canonical
from pytest_longctx.deployments import expected_times, models, roofline
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.cpu_speed import REFUSAL_SHARE
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.deployments.models import Beyond
from pytest_longctx.deployments.shape import Shape, weight_value_bytes
from pytest_longctx.errors import UsageError
from pytest_longctx.findings.ask import TEXTS
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Case, machine_lacks
from pytest_longctx.findings.verdicts import concerns_memory
from pytest_longctx.launchers.lint import lint
from pytest_longctx.launchers.start_command import of_deployment
from pytest_longctx.observation import Outcome
from pytest_longctx.shapes import NotUnderstood
from pytest_longctx.units import GiB, duration

USUAL_BOOT_S = 600.0
"""Boot time of a large model if the deployment gives none: 572 s were logged for Scout on 8 x H200."""

_MOST_DEVICES = 65_536

BETWEEN_S = 5.0
"""Time to stop a server and to prepare the next boot."""


def roughly(seconds: float) -> str:
    """
    Return the estimated time of a run as text: half minutes, then minutes.

    >>> roughly(20), roughly(131), roughly(840)
    ('half a minute', '2 min', '14 min')
    """
    return "half a minute" if seconds < 45 else f"{round(seconds / 60)} min"


@dataclass(frozen=True, slots=True)
class Row:
    """One deployment in the plan of a run."""

    deployment: str
    needs: str
    findings: tuple[str, ...]
    out_of_scope: str = ""
    """Reason why the deployment cannot run on this machine."""
    prediction: Prediction | None = None
    """Memory prediction; ``None`` if the model's shape, the hardware or the engine's memory use is unknown."""
    unpredicted: str = ""
    """
    The reason why a prediction is missing, if known: the key of config.json that is not understood, or a feature that
    is not modelled.
    """
    sizes: str = ""
    """Sizes of the model from config.json, if it was read."""
    expects: frozenset[Outcome] = frozenset()
    """Documented outcome of this boot, as far as memory determines it."""
    boot_s: float | None = None
    test_s: float | None = None
    gpus: int = 0
    host: str = ""
    """The open question if the memory of the host is unknown and a finding is about a host that is too small."""
    lints: tuple[str, ...] = ()
    """Faults of the deployment itself, known before any boot."""

    @property
    def verdict(self) -> str:
        """Short verdict on one deployment in the plan of a run: out of scope, the prediction, or why no prediction exists."""
        if self.out_of_scope:
            return f"out of scope: {self.out_of_scope}"
        return self.unpredicted or ("no prediction" if self.prediction is None else f"{self.prediction}{self.host}")

    @property
    def contradicts(self) -> bool:
        """Whether prediction and findings of a planned deployment disagree, so that one of them is wrong."""
        if self.prediction is None or self.out_of_scope or self.prediction.doubt:
            return False
        return bool(self.expects - {self.prediction.outcome})

    @property
    def gpu_hours(self) -> float | None:
        """Device time of a planned deployment in hours; ``None`` if it would not run or its time is unknown."""
        if self.out_of_scope or self.boot_s is None:
            return None
        return self.gpus * (self.boot_s + (self.test_s or 0.0)) / 3600

    def as_json(self) -> dict[str, Any]:
        """Return the row of a planned deployment as JSON."""
        return {
            **asdict(self),
            "expects": sorted(self.expects),
            "verdict": self.verdict,
            "contradicts": self.contradicts,
            "gpu_hours": self.gpu_hours,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows of a run's plan, in boot order."""

    hardware: Hardware | None
    rows: tuple[Row, ...] = field(default=())

    def lines(self) -> Iterable[str]:
        """Yield the plan of a run as lines of a table."""
        for row in self.rows:
            yield f"{row.deployment:<30} {row.needs:<8} {len(row.findings):>3} findings  {row.verdict}"
            if row.prediction is not None and not row.out_of_scope:
                yield "    " + ", ".join(str(term) for term in row.prediction.terms)
                yield f"    longest request {row.prediction.longest_tokens:,} tokens; {_times(row)}"
            if row.findings and not row.out_of_scope:
                yield f"    findings {_named(row.findings)}"
            if row.sizes and not row.out_of_scope:
                yield f"    {row.sizes}"
            yield from (f"    {wrong}" for wrong in row.lints)
            if row.contradicts:
                yield "    the findings document another outcome: the prediction or a finding is wrong"
        hours = sum(row.gpu_hours or 0.0 for row in self.rows)
        where = self.hardware or "unknown hardware"
        spent = (
            f"about {duration(self.expected_s)}" if not hours and self.expected_s else f"about {hours:.1f} GPU-hours"
        )
        yield f"{len(self.rows)} deployments on {where}, {spent}; nothing was booted"

    @property
    def boots(self) -> tuple[str, ...]:
        """Deployments of the planned run that can run on this machine, in boot order."""
        return tuple(row.deployment for row in self.rows if not row.out_of_scope)

    @property
    def expected_s(self) -> float | None:
        """Total time of all planned boots in sequence; ``None`` if the time of one is unknown."""
        rows = [row for row in self.rows if not row.out_of_scope]
        if not rows or any(row.boot_s is None for row in rows):
            return None
        return sum((row.boot_s or 0.0) + BETWEEN_S + (row.test_s or 0.0) for row in rows)

    def foretold(self) -> str:
        """One-line forecast of the run: the number of boots, and the expected time of boots and prompts."""
        count = len(self.boots)
        boots = f"{count} boot{'' if count == 1 else 's'}"
        return boots if self.expected_s is None else f"{boots}, about {roughly(self.expected_s)} on this machine"


_MOST_NAMED = 12
"""Number of findings that a row names."""


def _named(findings: tuple[str, ...]) -> str:
    more = len(findings) - _MOST_NAMED
    return ", ".join(findings[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _times(row: Row) -> str:
    boot = "boot not known" if row.boot_s is None else f"boot about {duration(row.boot_s)}"
    return boot if row.test_s is None else f"{boot}, prompts about {duration(row.test_s)}"


def make(cases: Iterable[Case], deployments: Iterable[Deployment], backend: Backend, here: Machine) -> Plan:
    """
    Return the plan of a run that would judge *cases*. Cases out of scope for other reasons than the hardware take no
    time.
    """
    asked: dict[str, list[Finding]] = {}
    for case in cases:
        if case.finding.on_paper:
            continue  # it boots no server
        if case.misfit is None or case.misfit.line.startswith("hardware"):
            asked.setdefault(case.deployment.name, []).append(case.finding)
    rows = (_row(one, tuple(asked[one.name]), backend, here) for one in deployments if one.name in asked)
    return Plan(here.hardware, tuple(rows))


def predict(one: Deployment, backend: Backend, here: Machine) -> Prediction | None:
    """
    Return the predicted memory of *one*; ``None`` if the model's shape, the hardware or the engine's memory use is
    unknown.
    """
    one = canonical(one, backend.package)
    shape = None if unpredicted(one, backend) else models.shape_of(one.model)
    gib = here.hardware.device_gib if here.hardware else None
    try:
        found = backend.predict(one, shape, gib * GiB if gib else None) if shape else None
    except (ArithmeticError, LookupError, TypeError, ValueError):
        # A flag with a value that the engine would refuse: a finding may ask for that refusal, and no arithmetic foresees it.
        return None
    return found.on_host(here.host_bytes) if found else None


def predict_deployment(
    one: Deployment, hardware: str | None = None, backend: Backend | None = None
) -> Prediction | None:
    """
    Return whether *one* fits on *hardware*, such as ``4xH200``, with its predicted memory; None if too little is known.

    *hardware* defaults to the hardware of the deployment. Pass *backend* if it does not ship with the package. Raises
    `UsageError`.
    """
    wanted = hardware or one.hardware
    if wanted is None:
        raise UsageError(f"predict {one.name}: the deployment names no hardware; give one, for example '8xH200'")
    try:
        there = Hardware.parse(wanted)
    except ValueError as problem:
        raise UsageError(f"predict {one.name}: hardware: {problem}") from None
    needs = Hardware.parse(one.hardware) if one.hardware else there
    if there.count < needs.count:
        raise UsageError(
            f"predict {one.name}: the deployment needs {needs.count} devices ({needs}), but {there} has {there.count}"
        )
    return predict(one, backend or named(one.backend), Machine(there))


def _divides(one: Deployment, backend: Backend) -> bool:
    """
    Return whether a layer can be divided over the number of devices in the deployment's flags; if not, no run can be
    predicted.
    """
    try:
        return 1 <= backend.tensor_parallel(one) <= _MOST_DEVICES
    except (TypeError, ValueError):
        return False


def unpredicted(one: Deployment, backend: Backend) -> str:
    """Return why the memory of *one* is not predicted; empty if it is."""
    found, one = models.read_shape(one.model), canonical(one, backend.package)
    if isinstance(found, NotUnderstood):
        return str(found)
    if not _divides(one, backend):
        return "the number of devices that share a layer is not understood"
    if isinstance(found, Beyond):
        return f"the memory of {backend.name} for {found.whole.model_type} is not modelled: {found.why}"
    return backend.unmodelled(one, found) if found is not None and found.whole is not None else ""


def _sizes(one: Deployment, backend: Backend) -> str:
    """Return the size of the weights and of a token's KV cache from config.json, even if the memory is not modelled."""
    found = models.read_shape(one.model)
    whole = found.whole if isinstance(found, Shape | Beyond) else None
    if whole is None:
        return ""
    devices = backend.tensor_parallel(one)
    gib = whole.weight_bytes(devices, weight_value_bytes(whole, one.model.weight_bits / 8)) / GiB
    kept, everything = (whole.kv_bytes_per_token(2, devices, windowed=each) for each in (False, True))
    windows = "" if kept == everything else f" beyond the windows, {everything:,} within them,"
    states = ", beside a state for each request" if whole.states else ""
    of_each = "on the device" if devices == 1 else f"on each of {devices} devices"
    count = f"{whole.parameters / 1e9:,.2f}B parameters"
    size = f"weights {gib:.2f} GiB and {kept:,} bytes of BF16 KV cache a token{windows}{states} {of_each}"
    return "; ".join((f"config.json: {count}", size, *whole.notes))


def expected_ttft_s(one: Deployment, prompt_tokens: int, hardware: Hardware | None, backend: Backend) -> float | None:
    """
    Return the expected TTFT at `roofline.USUAL_UTILISATION` with the known host overhead; on a CPU, from the measured speed.

    Returns ``None`` if the model's shape or the hardware's peak is unknown.
    """
    shape = models.shape_of(one.model)
    if measured_s := one.timeouts.expected_prefill_s(prompt_tokens):
        return measured_s
    if shape is None or hardware is None:
        return None
    floor_s = roofline.prefill_floor_s(shape, prompt_tokens, hardware)
    return None if floor_s is None else floor_s / roofline.USUAL_UTILISATION + backend.host_s(one, shape, prompt_tokens)


def _foreseeable(finding: Finding, here: Machine) -> bool:
    """Return whether the plan of a run can predict the outcome that *finding* documents on this machine."""
    return concerns_memory(finding) and (finding.scope.host_gib_at_most is None or here.host_bytes is not None)


_UNREAD = ("over-limit", "boots", "boot-fails", "ratio")
"""Questions without a prefill."""
_LOG_WINDOWS_S = 20.0
"""Waiting time before and after the request of a 'logged-rate'."""
_ACCOUNTED_TOKENS = 33_000
"""Number of prompts of an 'accounting', on both sides of every border."""

_PATH_READINGS = 20
"""Prompts of a 'path' with its cold controls, on average."""


def _asked_s(finding: Finding, one: Deployment, needs: Hardware, backend: Backend) -> float:
    """Return the expected time of the requests that a run sends for *finding*, in sequence."""
    ask, question = finding.ask, finding.question
    if question in _UNREAD:
        return 0.0
    lengths: Iterable[int] = ask.every_length(one.max_model_len)
    if question == "load":
        lengths = (ask.prompt_tokens or 0,) * (ask.requests or 1)
    if question == "drift":  # read twice on each side, alone and in company
        lengths = (ask.prompt_tokens or 0,) * (2 * ask.runs * (ask.requests or TEXTS))
    if question == "repeatable":  # alone, in batches of 8 and 50, and around two hits
        lengths = (ask.prompt_tokens or 0,) * 64
    if question == "accounting":
        lengths = (_ACCOUNTED_TOKENS // 24,) * (ask.requests or 24)
    if question == "accuracy":
        lengths = (_TASK_PROMPT_TOKENS,) * (ask.requests or _TASK_REQUESTS.get(ask.task or "", _USUAL_TASK_REQUESTS))
    times_s = sum(expected_ttft_s(one, length, needs, backend) or 0.0 for length in lengths)
    times_s += _answers_s(finding, one, needs, tuple(lengths))
    if question == "load" and ask.rate_per_s is not None:
        return max(times_s, (ask.requests or 0) / ask.rate_per_s)
    return times_s * {"reset": 2, "path": _PATH_READINGS}.get(question, 1) + (
        _LOG_WINDOWS_S if question == "logged-rate" else 0.0
    )


_TASK_REQUESTS = {"gsm8k": 1319, "mmlu_pro": 12_032, "humaneval": 164, "ifeval": 541}
"""Number of questions in the test sets of lm-eval's tasks."""
_USUAL_TASK_REQUESTS = 1000
_TASK_PROMPT_TOKENS = 1000
"""Tokens of a question with a few worked examples. Questions of GSM8K with five examples have 900 to 1,100."""
_TASK_OUTPUT_TOKENS = 256


def _answers_s(finding: Finding, one: Deployment, needs: Hardware, lengths: tuple[int, ...]) -> float:
    """Return the expected time of the answers of *finding*, whose prompts have *lengths*."""
    ask, shape = finding.ask, models.shape_of(one.model)
    if shape is None or not lengths or needs.kind == "cpu":
        return 0.0
    tokens = _TASK_OUTPUT_TOKENS if finding.question == "accuracy" else ask.output_tokens
    requests = len(lengths) * (ask.turns or 1)
    at_once = min(requests, ask.concurrency or (requests if ask.rate_per_s else 1))
    return expected_times.answers_s(shape, max(lengths), tokens, requests, at_once, needs)


def _boot_s(one: Deployment, asked: tuple[Finding, ...], needs: Hardware | None) -> float | None:
    """
    Return the expected boot time in a run: as observed, as measured here, or the usual value for large models; None if
    unknown.
    """
    limits = one.timeouts
    if limits.usual_boot_s is None and limits.expected_boot_s is not None:
        return limits.expected_boot_s * (REFUSAL_SHARE if any(each.fails for each in asked) else 1.0)
    return limits.usual_boot_s or (USUAL_BOOT_S if needs and needs.device_gib else None)


def _host(asked: tuple[Finding, ...], found: Prediction | None, here: Machine) -> str:
    """
    Return the host memory that decides whether a planned boot fits, for findings about a small host if this host's
    memory is unknown.
    """
    most_gib = [each.scope.host_gib_at_most for each in asked if each.scope.host_gib_at_most is not None]
    if found is None or not found.fits or not most_gib or here.host_bytes is not None:
        return ""
    needed_gib = sum(term.size_bytes for term in found.terms if term.host) / GiB
    return f" on a host of {needed_gib:,.0f} GiB; dies on one of {max(most_gib):g} GiB"


def _row(one: Deployment, asked: tuple[Finding, ...], backend: Backend, here: Machine) -> Row:
    hardware = here.hardware
    needs = Hardware.parse(one.hardware) if one.hardware else hardware
    lacks = machine_lacks(one, hardware) or ""
    found = predict(one, backend, replace(here, hardware=needs))
    test_s = None
    if models.shape_of(one.model) is not None and needs is not None:
        test_s = sum(_asked_s(each, one, needs, backend) for each in asked)
    return Row(
        deployment=one.name,
        needs=str(needs or "?"),
        findings=tuple(each.id for each in asked),
        out_of_scope=lacks.partition(": ")[2],
        prediction=found,
        unpredicted=unpredicted(one, backend),
        sizes=_sizes(one, backend),
        expects=frozenset(each.expect.outcome for each in asked if _foreseeable(each, here)),
        boot_s=_boot_s(one, asked, needs),
        test_s=test_s,
        gpus=0 if needs is None or needs.kind == "cpu" else needs.count,
        host=_host(asked, found, here),
        lints=tuple(f"{name}: {what}" for name, what in lint(of_deployment(one, backend.package))),
    )
