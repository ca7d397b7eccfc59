"""One boot: prepare it, run it, and keep the server or the failure as its result."""

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_longctx import toml
from pytest_longctx.backends import Backend, environments
from pytest_longctx.client import server_metrics
from pytest_longctx.client.exchange import Exchange, observation_of
from pytest_longctx.client.request import decoding
from pytest_longctx.client.server import Server
from pytest_longctx.deployments import models, roofline
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.devices import leases, monitor
from pytest_longctx.devices.sampler import Sampler, Tell
from pytest_longctx.diagnosis.diagnose import Evidence, diagnose, explain_refusal, from_outside
from pytest_longctx.diagnosis.log_file import read_file
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.errors import BootError, LaunchError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Conditions, Mismatch
from pytest_longctx.launchers import Launch, Launcher
from pytest_longctx.launchers.readiness import HALTER, STOPPER, ended_in_order, how_it_ended
from pytest_longctx.observation import Observation, Outcome
from pytest_longctx.processes import clock
from pytest_longctx.processes.progress import ProgressCallback
from pytest_longctx.redaction import shown
from pytest_longctx.units import quantity

_END_S = 10.0
"""Seconds that a failed server may take to end: vLLM shuts its API down two seconds after its engine has died."""
_UNANSWERED: tuple[Outcome, ...] = ("disconnects", "dies", "fails", "hangs", "is not admitted")


@dataclass(slots=True)
class LinesCounted:
    """Counter of the matching lines of a growing log. Each line is counted once."""

    count: int = 0
    first: str = ""
    """The first line that matched."""
    read_bytes: int = 0
    """Number of bytes read, in whole lines: the engine may still be writing the last line."""

    def more(self, log: Path, regex: str) -> None:
        """
        Count the new whole lines of *log* that match *regex* since the last call. If the log was truncated, count all
        its lines.
        """
        if log.stat().st_size < self.read_bytes:
            self.count, self.first, self.read_bytes = 0, "", 0
        with log.open("rb") as file:
            file.seek(self.read_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.read_bytes += len(line)
                text = line.decode("utf-8", "replace")
                if re.search(regex, text):
                    self.count += 1
                    self.first = self.first or text.strip()


@dataclass(frozen=True, slots=True)
class Boot:
    """The result of booting one deployment. Either *server* or *failure* is set."""

    conditions: Conditions
    facts: dict[str, str]
    """The conditions of a verdict as text: deployment and its file's hash, engine, model, hardware, launcher."""
    seconds: float
    server: Server | None = None
    failure: BootError | None = None
    log: Path | None = None
    began_s: float | None = None
    """Unix time of the start."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Highest sampled memory use until the boot ended."""
    predicted: Prediction | None = None
    """The prediction, if there is one."""
    canaries: LinesCounted = field(default_factory=LinesCounted, compare=False)
    """The corruption of the KV cache that the engine has logged, as far as the log was read."""

    def observe(self) -> Observation:
        """Return the result of the boot, finished or failed, as evidence for a verdict."""
        served = Observation("serves", dict(self.server.figures) if self.server else {}, phase="boot")
        seen = served if self.failure is None else self.failure.observation
        return replace(seen, metrics={**seen.metrics, **self.peaks})

    def weigh(self, exchange: Exchange) -> Observation:
        """
        Return an exchange as evidence, with its share of the hardware's peak (if the peak is known) and the load of the
        host.
        """
        seen, deployment, hardware = self._known(exchange), self.conditions.deployment, self.conditions.hardware
        if "ttft_gap_s" in seen.metrics:
            seen = replace(seen, metrics={**seen.metrics, "host_load": server_metrics.processes_per_core()})
        shape = models.shape_of(deployment.model)
        if exchange.ttft_s is None or shape is None or hardware is None:
            return seen
        # Any FP8 in the configuration may reach the matrix units, whose peak it doubles.
        words = (*map(str, deployment.flags.values()), deployment.model.id or "")
        value_bytes = 1 if any("fp8" in word.lower() for word in words) else 2
        share = roofline.peak_share(shape, exchange.sent_tokens, exchange.ttft_s, hardware, value_bytes)
        return replace(seen, metrics={**seen.metrics, "peak_share": share})

    def _known(self, exchange: Exchange) -> Observation:
        """Return an exchange as evidence. If the catalogue knows the refusal, add its signature, class and sizes."""
        seen = exchange.observe()
        if exchange.refusal is None or self.server is None:
            return seen
        known = explain_refusal(self.server.backend.catalogue, exchange.refusal.text)
        if known is None:
            return seen
        name, kind, sizes = known
        return replace(seen, signature=name, kind=kind, metrics={**seen.metrics, **sizes})

    def beside(self, seen: Observation) -> Observation:
        """Return *seen* with the figures of this boot added."""
        return replace(seen, metrics={**self.observe().metrics, **seen.metrics})

    @property
    def words(self) -> Mapping[str, str]:
        """Named texts from the log of the boot, also of a failed boot."""
        return self.conditions.words

    def evidence(self, seen: Exchange | Sequence[Exchange] | Observation) -> Observation:
        """
        Return the complete observation of what a test has *seen*, ready for a verdict.

        Exchanges are weighed and combined. The boot's log texts and, after a failure of the server, its cause are
        added. Raises `LaunchError` if no request reached an engine, if the server's container or Pod has disappeared, or if
        something outside stopped the server.
        """
        return self._with_canary(self._with_cause(observation_of(seen, self.weigh)))

    def _with_canary(self, seen: Observation) -> Observation:
        """
        Return *seen* with the violations of the KV cache that the engine has logged since its start. An engine with the
        canary off logs none.
        """
        line = self.server.backend.catalogue.canary if self.server else None
        if self.server is None or line is None or self.server.log is None or not self.server.log.is_file():
            return seen
        self.canaries.more(self.server.log, line.regex)
        metrics = {**seen.metrics, "kv_canary_violations": self.canaries.count}
        return replace(seen, metrics=metrics, said="; ".join(filter(None, (self.canaries.first, seen.said))))

    def _with_cause(self, seen: Observation) -> Observation:
        """
        Return *seen* with the boot's log texts and, after a failure, the cause: from the log and from the way in which
        the server ended.
        """
        seen = replace(seen, words=self.words)
        if self.server is None or (seen.outcome not in _UNANSWERED and seen.kind != "too-slow"):
            return seen
        if halted := self.server.halted():
            raise LaunchError(self._outside(f"{halted[0]}: it does nothing until SIGCONT", HALTER, self.server))
        failed = self._log_of(self.server).failure is not None
        # Do not wait for the end of a server that still answers and only refused this request.
        end = self.server.ended(_END_S if failed or "health_status" not in seen.metrics else 0.0)
        reading = self._log_of(self.server)
        if orderly := ended_in_order(reading, end or Evidence()):
            raise LaunchError(self._outside(orderly, STOPPER, self.server))
        if end is None and not failed:
            return seen
        found = diagnose(reading, end or Evidence())
        if from_outside(reading, found):
            raise LaunchError(self._outside(found.cause, found.remedy, self.server, found.rows()))
        ended = how_it_ended(end.exit_code, oom_killed=end.oom_killed) if end and end.exit_code else ""
        said = shown("; ".join(filter(None, (found.cause, ended, seen.said))), self.server.secrets)
        # A failure while serving is a failure under a request, also where the log does not tell the phase.
        phase = "request" if found.phase in ("serve", "unknown") else found.phase
        return replace(found.observe(seen.metrics), phase=phase, said=said, sent_tokens=seen.sent_tokens)

    def _outside(self, because: str, remedy: str, server: Server, rows: Iterable[tuple[str, str]] = ()) -> str:
        """
        Return the message that an event outside the server stopped it, which is no evidence about the server; empty if
        there is none.
        """
        lines = [f"{server.deployment.name} was stopped while it worked, so nothing is judged", f"  because  {because}"]
        lines += [f"  {word:<8} {line}" for word, line in rows]
        lines += [] if server.log is None else [f"  log      {server.log}"]
        return shown("\n".join([*lines, f"  try      {remedy}"]), server.secrets)

    def _log_of(self, server: Server) -> LogReader:
        """Return the engine's log so far; an empty reader if there is no log."""
        catalogue, version = server.backend.catalogue, self.conditions.version
        return LogReader(catalogue, version) if server.log is None else read_file(server.log, catalogue, version)

    def record(self) -> dict[str, Any]:
        """Return the boot as a row of the results."""
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
    """
    Return the reason why a ratio cannot be judged yet; None if it can. The ratio is judged once, at the later boot of
    its two deployments.
    """
    missing = [name for name in finding.scope.deployment if name not in booted]
    line = f"ratio: {' and '.join(missing)} has not been booted in this run; judged at the later boot of the two"
    return Mismatch(0, line) if missing else None


def ratio(finding: Finding, booted: Mapping[str, Boot]) -> Observation:
    """Return the ratio of the KV caches of two deployments. If a boot failed, return that boot's observation."""
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
    """Return the engine's name and version, as in `Boot.facts`."""
    return f"{deployment.backend} {version or 'of unknown version'}"


@dataclass(frozen=True, slots=True)
class BootSettings:
    """Inputs that all boots of one run share."""

    launcher: Launcher
    backend: Backend
    hardware: Hardware | None
    """The hardware that the servers run on; None if unknown."""
    logs: Path
    """The folder for server logs."""
    python: Path | None = None
    """The interpreter of ``--longctx-python``; None: the usual places are searched for the engine."""
    allow_busy: bool = False
    """Whether to boot on devices whose memory another process uses."""

    @contextmanager
    def prepared(self, deployment: Deployment, watch: ProgressCallback, tell: Tell) -> Iterator[tuple[Launch, Sampler]]:
        """
        Prepare a boot of *deployment* and yield its launch: lease its devices, check that they are free, find the
        engine and the model.

        The devices stay leased until the context ends, and samples of them go to *tell*. Raises `LongctxError`.
        """
        leased = self.hardware if self.launcher.leases_devices else None
        with (
            leases.own(deployment, leased, watch) as shown,
            self._monitored(deployment, shown, tell) as sampler,
        ):
            launch = Launch(self.backend, deployment, None, self.logs, watch=watch, started=sampler.below, shown=shown)
            yield self._with_engine(launch) if self.launcher.boots else launch, sampler

    def _with_engine(self, launch: Launch) -> Launch:
        needed = self.launcher.needs_engine
        python = environments.interpreter(self.backend, self.python) if needed else None
        return replace(launch, model=models.locate(launch.deployment.model), python=python)

    def _monitored(
        self, deployment: Deployment, shown: Mapping[str, str], tell: Tell
    ) -> AbstractContextManager[Sampler]:
        """Return a sampler of *deployment* and of its devices, which are the devices in *shown* if given."""
        wanted = Hardware.parse(deployment.hardware) if deployment.hardware else self.hardware
        here = self.launcher.here and not self.backend.shares_machine
        env = {**os.environ, **deployment.env, **shown}
        contained, busy = self.launcher.contained, self.allow_busy
        return monitor.monitored(deployment, wanted if here else None, env, tell, contained=contained, allow_busy=busy)


@contextmanager
def boot(
    launcher: Launcher, launch: Launch, here: Machine, version: str | None, predicted: Prediction | None = None
) -> Iterator[Boot]:
    """
    Boot *launch*, yield the result, and stop the server when the context ends. A failed boot is a result, not an error.

    *version* is the engine's, if known before the boot. Raises `LaunchError` if the boot could not be attempted.
    """
    deployment = launch.deployment
    server, failure = None, None
    began_s, started_s = clock.unix_s(), time.monotonic()
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
