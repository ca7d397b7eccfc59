"""
Backends: what to launch and what its server is called, asked and logged as. A backend never starts anything.

To add one, write a class like those beside this file and a TOML catalogue of its log lines, and return it from the hook
``pytest_longctx_make_backend``.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pytest_longctx import catalogue
from pytest_longctx.deployment import Deployment
from pytest_longctx.physics.prediction import Prediction
from pytest_longctx.physics.shape import Shape


@dataclass(frozen=True, slots=True)
class MetricNames:
    """What a server calls its gauges and counters on ``/metrics``; None where it has no such thing."""

    running: str | None = None
    waiting: str | None = None
    kv_usage: str | None = None
    """Share of the KV cache in use, 0 to 1."""
    cached_tokens: str | None = None
    """Counter: prompt tokens answered from the prefix cache."""
    generated_tokens: str | None = None
    """Counter: tokens generated; it shows when a scrape has caught up with an answer."""
    cache_info: str | None = None
    """Gauge whose labels tell how the KV cache was laid out."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A server to launch, as a value: launchers need nothing else."""

    name: str
    """The deployment's name: log files and containers are called after it."""
    argv: tuple[str, ...]
    env: Mapping[str, str]
    port: int
    model: str
    """What the server is to call its model."""
    boot_s: float
    pass_env: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    image: str | None = None


class Backend:
    """What every backend knows. A new one states its name, its `argv`, and whatever differs from the defaults here."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """The import name that an interpreter must have for this engine; None: any interpreter will do."""
    distributions: tuple[str, ...] = ()
    """Names the engine is installed under, for its version."""
    install: tuple[str, ...] = ()
    """Requirements that ``longctx engine`` installs; empty: it cannot."""
    uninstall: tuple[str, ...] = ()
    """What to take out again after that."""
    launches: ClassVar[bool] = True
    """False: the server is always somebody else's, and only its URL is known."""
    shares_machine: ClassVar[bool] = False
    """True: small enough that every xdist worker may boot its own."""
    health: ClassVar[str] = "/health"
    version_path: ClassVar[str | None] = "/version"
    body: ClassVar[Mapping[str, Any]] = MappingProxyType({"ignore_eos": True})
    """Added to each completion request; ``ignore_eos`` makes the number of output tokens exact."""
    names_cached_if_any: ClassVar[bool] = False
    """Whether, launched as here, its usage record names cached tokens wherever there are any, and only there."""
    host_flag: ClassVar[str | None] = None
    """What sets the address it listens at, which its `argv` then leaves out; None: it cannot be reached inside a container."""
    key_flag: ClassVar[str | None] = None
    """What makes it ask for an API key, where it reads none from its environment."""
    key_variable: ClassVar[str | None] = None
    """The environment variable that makes it ask for an API key."""
    metrics: ClassVar[MetricNames] = MetricNames()
    failures: ClassVar[str | None] = None
    """The backend whose catalogue to use; None: the one named like this backend."""

    @cached_property
    def catalogue(self) -> catalogue.Catalogue:
        """What this engine's log says."""
        path = Path(__file__).parent / f"{self.failures or self.name}.toml"
        return catalogue.load(path) if path.is_file() else catalogue.Catalogue()

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        """The command line that serves *model* at *port*, on loopback unless `host_flag` says where; *python* runs it."""
        raise NotImplementedError

    def env(self, deployment: Deployment) -> dict[str, str]:
        """The environment this engine needs; a deployment's own wins over it."""
        return {}

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float) -> Prediction | None:
        """What a boot of *deployment* comes to on devices of *device_bytes*; None where this engine's memory is not known."""
        return None

    def recipe(
        self,
        deployment: Deployment,
        model: str,
        port: int,
        python: str = sys.executable,
        *,
        host: str = "127.0.0.1",
        key: str | None = None,
    ) -> Recipe:
        """*deployment* as something a launcher can start, listening at *host* and asking for *key*."""
        # Last on the command line, where no flag of the deployment can open it to the world.
        listens = (self.host_flag, host) if self.host_flag else ()
        locked = (self.key_flag, key) if self.key_flag and key else ()
        unlocks = {self.key_variable: key} if self.key_variable and key else {}
        return Recipe(
            name=deployment.name,
            argv=(*self.argv(deployment, python, model, port), *listens, *locked),
            env={**self.env(deployment), **deployment.env, **unlocks},
            port=port,
            model=deployment.model.name,
            boot_s=deployment.timeouts.boot_s,
            pass_env=deployment.pass_env,
            secrets=(key,) if key else (),
            image=deployment.image,
        )
