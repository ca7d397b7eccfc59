"""One boot: the server, or the failure that was seen instead, with the record of both."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_longctx import models, tables
from pytest_longctx.deployment import Deployment
from pytest_longctx.diagnosis import explain_refusal
from pytest_longctx.errors import BootError
from pytest_longctx.exchange import Exchange
from pytest_longctx.launchers import Launch, Launcher
from pytest_longctx.machine import Hardware
from pytest_longctx.observation import Observation
from pytest_longctx.physics import roofline
from pytest_longctx.scope import Conditions
from pytest_longctx.server import Server


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

    def observe(self) -> Observation:
        """The boot as evidence for a verdict."""
        if self.failure is not None:
            return self.failure.observation
        return Observation("serves", dict(self.server.figures) if self.server else {}, phase="boot")

    def weigh(self, exchange: Exchange) -> Observation:
        """An exchange as evidence, with the share of the peak that its prefill would have taken, where that is known."""
        seen, deployment, hardware = self._known(exchange), self.conditions.deployment, self.conditions.hardware
        shape = models.shape_of(deployment.model)
        if exchange.ttft_s is None or shape is None or hardware is None:
            return seen
        # Any FP8 in the configuration may reach the matrix units, whose peak it doubles.
        words = (*map(str, deployment.flags.values()), deployment.model.id or "")
        value_bytes = 1 if any("fp8" in word.lower() for word in words) else 2
        share = roofline.peak_share(shape, exchange.sent_tokens, exchange.ttft_s, hardware, value_bytes)
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

    def bear_out(self, seen: Observation) -> Observation:
        """*seen*, with how the server ended where it did. Raises `LaunchError` where what it ran in has gone."""
        if self.server is None or seen.outcome not in ("disconnects", "dies"):
            return seen
        end = self.server.ended()
        return replace(seen, said=f"{end}; {seen.said}") if end else seen

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
            "words": dict(self.server.words) if self.server else {},
            "log": str(self.log) if self.log else None,
            "explained": str(self.failure) if self.failure else "",
        }


def engine_called(deployment: Deployment, version: str | None) -> str:
    """The engine and its version, as facts name them."""
    return f"{deployment.backend} {version or 'of unknown version'}"


@contextmanager
def boot(launcher: Launcher, launch: Launch, hardware: Hardware | None, version: str | None) -> Iterator[Boot]:
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
            "configuration": tables.digest(deployment),
            "engine": engine_called(deployment, version),
            "model": model,
            "hardware": str(hardware) if hardware else "unknown",
            "launcher": launcher.name,
        }
        log = server.log if server else failure.log if failure else None
        here = Conditions(deployment, hardware, version, limit)
        yield Boot(here, facts, seconds, server, failure, log, began_s)
