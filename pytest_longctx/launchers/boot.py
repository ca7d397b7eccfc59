"""One boot: the server, or the failure that was seen instead, with the record of both."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_longctx import toml
from pytest_longctx.client.exchange import Exchange
from pytest_longctx.client.request import decoding
from pytest_longctx.client.server import Server
from pytest_longctx.deployments import capacity, models
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.diagnosis.diagnose import Evidence, diagnose, explain_refusal
from pytest_longctx.diagnosis.log_file import read_file
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.errors import BootError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Conditions, Mismatch
from pytest_longctx.launchers import Launch, Launcher
from pytest_longctx.launchers.readiness import how_it_ended
from pytest_longctx.observation import Observation, Outcome
from pytest_longctx.redaction import masked
from pytest_longctx.units import quantity

_END_S = 10.0
"""How long a server that has failed may take to end: vLLM shuts its API down two seconds after its engine is gone."""
_UNANSWERED: tuple[Outcome, ...] = ("disconnects", "dies", "fails", "hangs", "is not admitted")


@dataclass(frozen=True, slots=True)
class Boot:
    """What came of bringing one deployment up: exactly one of *server* and *failure* is there."""

    conditions: Conditions
    facts: dict[str, str]
    """What is judged, in words: deployment and the hash of its file, engine, model, hardware, launcher."""
    seconds: float
    server: Server | None = None
    failure: BootError | None = None
    log: Path | None = None
    began_s: float | None = None
    """When it was started, in seconds of Unix time."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """The most memory in use until it was up or had failed, as far as somebody looked."""
    predicted: Prediction | None = None
    """What was expected of it, where anything was."""

    def observe(self) -> Observation:
        """The boot as evidence for a verdict."""
        served = Observation("serves", dict(self.server.figures) if self.server else {}, phase="boot")
        seen = served if self.failure is None else self.failure.observation
        return replace(seen, metrics={**seen.metrics, **self.peaks})

    def weigh(self, exchange: Exchange) -> Observation:
        """An exchange as evidence, with the share of the peak that its prefill would have taken, where that is known."""
        seen, deployment, hardware = self._known(exchange), self.conditions.deployment, self.conditions.hardware
        shape = models.shape_of(deployment.model)
        if exchange.ttft_s is None or shape is None or hardware is None:
            return seen
        # Any FP8 in the configuration may reach the matrix units, whose peak it doubles.
        words = (*map(str, deployment.flags.values()), deployment.model.id or "")
        value_bytes = 1 if any("fp8" in word.lower() for word in words) else 2
        share = capacity.peak_share(shape, exchange.sent_tokens, exchange.ttft_s, hardware, value_bytes)
        return replace(seen, metrics={**seen.metrics, "peak_share": share})

    def _known(self, exchange: Exchange) -> Observation:
        """An exchange as evidence; a refusal that the catalogue knows has its signature, its class and its sizes."""
        seen = exchange.observe()
        if exchange.refusal is None or self.server is None:
            return seen
        known = explain_refusal(self.server.backend.catalogue, exchange.refusal.text)
        if known is None:
            return seen
        name, kind, sizes = known
        return replace(seen, signature=name, kind=kind, metrics={**seen.metrics, **sizes})

    def beside(self, seen: Observation) -> Observation:
        """*seen*, with the figures of the boot."""
        return replace(seen, metrics={**self.observe().metrics, **seen.metrics})

    @property
    def words(self) -> Mapping[str, str]:
        """What its log called by name, whether it came up or not."""
        return self.conditions.words

    def bear_out(self, seen: Observation) -> Observation:
        """
        *seen*, with the words of the boot, and with why the server failed where it did: its log joined with how it ended.

        Raises `LaunchError` where what it ran in has gone.
        """
        seen = replace(seen, words=self.words)
        if self.server is None or (seen.outcome not in _UNANSWERED and seen.kind != "too-slow"):
            return seen
        failed = self._log_of(self.server).failure is not None
        # Nobody waits for the end of a server that still answers, and only turned this request away.
        end = self.server.ended(_END_S if failed or "health_status" not in seen.metrics else 0.0)
        if end is None and not failed:
            return seen
        found = diagnose(self._log_of(self.server), end or Evidence())
        ended = how_it_ended(end.exit_code, oom_killed=end.oom_killed) if end and end.exit_code else ""
        said = masked("; ".join(filter(None, (found.cause, ended, seen.said))), self.server.secrets)
        # What fails while it serves fails under a request.
        phase = "request" if found.phase == "serve" else found.phase
        return replace(found.observe(seen.metrics), phase=phase, said=said, sent_tokens=seen.sent_tokens)

    def _log_of(self, server: Server) -> LogReader:
        """What the log says by now; nothing where there is none."""
        catalogue, version = server.backend.catalogue, self.conditions.version
        return LogReader(catalogue, version) if server.log is None else read_file(server.log, catalogue, version)

    def record(self) -> dict[str, Any]:
        """The boot as results keep it."""
        seen = self.observe()
        return {
            **self.facts,
            "outcome": seen.outcome,
            "started_s": self.began_s,
            "seconds": round(self.seconds, 3),
            "signature": seen.signature,
            "class": seen.kind,
            "said": seen.said,
            "figures": {name: value for name, value in seen.metrics.items() if value is not None},
            "words": dict(self.words),
            "log": str(self.log) if self.log else None,
            "explained": str(self.failure) if self.failure else "",
            **({"predicted": asdict(self.predicted)} if self.predicted else {}),
        }


def waits_for(finding: Finding, booted: Mapping[str, Boot]) -> Mismatch | None:
    """Why a ratio cannot be judged yet. It is judged once, on whichever of its two deployments comes up last."""
    missing = [name for name in finding.scope.deployment if name not in booted]
    line = f"ratio: {' and '.join(missing)} has not been booted in this run; judged on whichever comes up last"
    return Mismatch(0, line) if missing else None


def ratio(finding: Finding, booted: Mapping[str, Boot]) -> Observation:
    """How much more KV cache one of the two deployments has than the other; a boot that failed stands for both."""
    names = finding.divided()
    both = [booted[name].observe() for name in names]
    for seen in both:
        if seen.outcome != "serves":
            return seen
    mine, theirs = (seen.metrics.get("kv_cache_tokens") for seen in both)
    said = ", ".join(
        f"{name} {quantity(tokens, 'tokens')}" for name, tokens in zip(names, (mine, theirs), strict=True) if tokens
    )
    return Observation("serves", {"capacity_ratio": mine / theirs if mine and theirs else None}, "boot", said=said)


def engine_called(deployment: Deployment, version: str | None) -> str:
    """The engine and its version, as facts name them."""
    return f"{deployment.backend} {version or 'of unknown version'}"


@contextmanager
def boot(
    launcher: Launcher, launch: Launch, here: Machine, version: str | None, predicted: Prediction | None = None
) -> Iterator[Boot]:
    """
    Bring *launch* up for as long as the context lasts; a server that fails to come up is a result, not an error.

    *version* is what is known of the engine before it runs. Raises `LaunchError` where it could not even be tried.
    """
    deployment = launch.deployment
    server, failure = None, None
    began_s, started_s = round(time.time(), 3), time.monotonic()
    with ExitStack() as stack:
        try:
            server = stack.enter_context(launcher.up(launch))
        except BootError as problem:
            failure = problem
        seconds = time.monotonic() - started_s
        model = models.fingerprint(deployment.model, launch.model or deployment.model.name)
        if server is not None:
            version = server.version or server.words.get("engine_version") or version
            model = model if deployment.model.name != "unknown" else f"{server.model} (unknown weights)"
        limit = server.max_model_len if server else deployment.max_model_len
        facts = {
            "deployment": deployment.name,
            "configuration": toml.digest(deployment),
            "engine": engine_called(deployment, version),
            "model": model,
            "hardware": str(here.hardware or "unknown"),
            **(
                {"dtype": str(deployment.flags["dtype"])}
                if launch.backend.on_cpu and "dtype" in deployment.flags
                else {}
            ),
            "launcher": launcher.name,
            "ordinary_ids": "{}-{}".format(*deployment.model.ordinary_ids),
            "decoding": ", ".join(f"{name}={value}" for name, value in decoding(launch.backend).items()),
        }
        log = server.log if server else failure.log if failure else None
        words = server.words if server else failure.observation.words if failure else {}
        conditions = Conditions(deployment, here.hardware, version, limit, words, here.host_bytes, here.cpu_flags)
        yield Boot(conditions, facts, seconds, server, failure, log, began_s, predicted=predicted)
