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

from pytest_longctx import toml
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.diagnosis import signatures


class MetricNames(toml.Table):
    """What a server calls its gauges and counters on ``/metrics``; empty where it has no such thing."""

    running: toml.Names = ()
    waiting: toml.Names = ()
    kv_usage: toml.Names = ()
    """Share of the KV cache in use, 0 to 1."""
    kv_used_tokens: toml.Names = ()
    """Gauge: tokens in the KV cache; where the share is rounded, this is what moves with every chunk."""
    worked_tokens: toml.Names = ()
    """Counter: tokens that went through the model, those of a prompt chunk by chunk while it is read."""
    prompt_tokens: toml.Names = ()
    """Counter: prompt tokens read."""
    generated_tokens: toml.Names = ()
    """Counter: tokens generated."""
    cached_tokens: toml.Names = ()
    """Counter: prompt tokens answered from a cache."""
    first_tokens: toml.Names = ()
    """Counter: requests that have had their first token."""
    ttft_s: toml.Names = ()
    """Sum over requests: from the server's receipt of a request to its first token."""
    queue_s: toml.Names = ()
    """Sum over requests: time spent waiting for the scheduler."""
    prefill_s: toml.Names = ()
    """Sum over requests: from the first schedule to the first token."""
    cache_info: toml.Names = ()
    """Gauge whose labels tell how the KV cache was laid out."""

    @classmethod
    def of(cls, engine: str) -> "MetricNames":
        """The names of *engine*, from its folder's ``metrics.toml``."""
        return toml.load(Path(__file__).parent / engine / "metrics.toml", cls)


def signature_files() -> dict[str, Path]:
    """Every shipped catalogue, ``ENGINE/signatures.toml`` or ``ENGINE/signatures-VARIANT.toml``, by its backend's name."""
    found = sorted(Path(__file__).parent.glob("*/signatures*.toml"))
    return {path.parent.name + path.stem.removeprefix("signatures"): path for path in found}


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
    elsewhere: ClassVar[str] = ", or name an interpreter that has it with --longctx-python"
    """Where else a message may send who misses the engine."""
    launches: ClassVar[bool] = True
    """False: the server is always somebody else's, and only its URL is known."""
    on_cpu: ClassVar[bool] = False
    """Whether its models are computed by PyTorch on the CPU, whose speed is then measured before anything boots."""
    shares_machine: ClassVar[bool] = False
    """True: small enough that every xdist worker may boot its own."""
    health: ClassVar[str] = "/health"
    dies_unhealthy: ClassVar[bool] = False
    """Whether a health of 503, from a server that was up, is an engine that has died; else it may only be busy."""
    version_path: ClassVar[str | None] = "/version"
    unmodelled_flags: ClassVar[frozenset[str]] = frozenset()
    """Flags that change what a device holds, and that `predict` does not look at."""
    reset_path: ClassVar[str | None] = None
    """Where a POST empties the prefix cache; None: it has no such endpoint."""
    body: ClassVar[Mapping[str, Any]] = MappingProxyType({"ignore_eos": True})
    """Added to each completion request; ``ignore_eos`` makes the number of output tokens exact."""
    salted: ClassVar[bool] = False
    """Whether a completion request may carry ``cache_salt``: the prefix cache then answers only requests with the same one."""
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

    @property
    def called(self) -> str:
        """What its engine is called in messages."""
        return f"the engine of backend {self.name!r}"

    @cached_property
    def catalogue(self) -> signatures.Catalogue:
        """What this engine's log says."""
        path = signature_files().get(self.failures or self.name)
        return signatures.load(path) if path else signatures.Catalogue()

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        """The command line that serves *model* at *port*, on loopback unless `host_flag` says where; *python* runs it."""
        raise NotImplementedError

    def version_in(self, answer: Mapping[str, Any]) -> str | None:
        """The engine's version, from what is answered at `version_path`; comparable by PEP 440, or None."""
        version = answer.get("version")
        return version if isinstance(version, str) else None

    def limit_in(self, row: Mapping[str, Any]) -> int | None:
        """The longest context in tokens, from the model's row of ``/v1/models``; None where the row does not say."""
        limit = row.get("max_model_len")
        return limit if isinstance(limit, int) else None

    def env(self, deployment: Deployment) -> dict[str, str]:
        """The environment this engine needs; a deployment's own wins over it."""
        return {}

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        """What a boot of *deployment* comes to on devices of *device_bytes* (None: not known); None where that cannot be said."""
        return None

    def tensor_parallel(self, deployment: Deployment) -> int:
        """How many devices share each layer."""
        return 1

    def unmodelled(self, deployment: Deployment, shape: Shape) -> str:
        """Why `predict` would be wrong about *deployment* with a *shape* that was read from its config.json; empty: it is not."""
        if unknown := sorted(self.unmodelled_flags & {name.replace("_", "-") for name in deployment.flags}):
            return f"the memory of {self.name} with --{unknown[0]} is not modelled"
        asked = shape.whole.scheme.kv_dtype if shape.whole else None
        if asked and deployment.flags.get("kv-cache-dtype", "auto") == "auto":
            return (
                f"the memory of {self.name} is not modelled where config.json asks for a KV cache in {asked}: "
                "name a --kv-cache-dtype"
            )
        return ""

    def host_s(self, deployment: Deployment, shape: Shape, prompt_tokens: int) -> float:
        """How long the devices wait for the host while one prompt is read, where that is known to grow with it."""
        return 0.0

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
            boot_s=deployment.timeouts.boot_limit_s,
            pass_env=deployment.pass_env,
            secrets=(key,) if key else (),
            image=deployment.image,
        )
