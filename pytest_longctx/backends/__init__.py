"""
Backends of engines: command line, names, endpoints and log patterns. Launchers, not backends, start servers.

To add one, write a class like those in this package and a TOML catalogue of its log lines, and return it from the hook
``pytest_longctx_make_backend``.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from pytest_longctx import registry, toml
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.diagnosis import signatures
from pytest_longctx.diagnosis.signatures import load as load_signatures
from pytest_longctx.errors import UsageError, unknown

__all__ = ["Backend", "MetricNames", "Recipe", "Scoring", "load_signatures", "named", "signature_files"]


class MetricNames(toml.Table):
    """Names of a server's gauges and counters on ``/metrics``. A name is empty if the server has no such metric."""

    running: toml.Names = ()
    waiting: toml.Names = ()
    kv_usage: toml.Names = ()
    """Share of the KV cache in use, from 0 to 1."""
    kv_used_tokens: toml.Names = ()
    """Gauge: tokens in the KV cache, which change with every chunk even if the share is rounded."""
    worked_tokens: toml.Names = ()
    """Counter: tokens that the model has processed. The tokens of a prompt are added chunk by chunk."""
    prompt_tokens: toml.Names = ()
    """Counter: prompt tokens read."""
    generated_tokens: toml.Names = ()
    """Counter: tokens generated."""
    cached_tokens: toml.Names = ()
    """Counter: prompt tokens answered from a cache."""
    external_tokens: toml.Names = ()
    """Counter: the part of `cached_tokens` that a connector loaded from outside the engine."""
    preemptions: toml.Names = ()
    """Counter: requests that were preempted, and so lost their KV cache while they ran."""
    drafted_tokens: toml.Names = ()
    """Counter: tokens proposed by speculative decoding."""
    accepted_tokens: toml.Names = ()
    """Counter: proposed tokens that were accepted."""
    corrupted_requests: toml.Names = ()
    """Counter: requests with NaNs in their logits."""
    first_tokens: toml.Names = ()
    """Counter: requests that have their first token."""
    ttft_s: toml.Names = ()
    """Sum over requests: from the server's receipt of a request to its first token."""
    queue_s: toml.Names = ()
    """Sum over requests: time spent waiting for the scheduler."""
    prefill_s: toml.Names = ()
    """Sum over requests: from the first schedule to the first token."""
    cache_info: toml.Names = ()
    """Gauge whose labels describe the layout of the KV cache."""

    @classmethod
    def of(cls, engine: str) -> "MetricNames":
        """Return the metric names of a backend's *engine*, from the ``metrics.toml`` in its folder."""
        return toml.load(Path(__file__).parent / engine / "metrics.toml", cls)


def catalogues() -> dict[str, signatures.Catalogue]:
    """
    Return the log catalogue of each engine, also of engines without a backend. Each includes the lines common to all
    engines.
    """
    return {name: known.with_common(signatures.common()) for name, known in _catalogues().items()}


def every_catalogue() -> signatures.Catalogue:
    """Return one catalogue with the log lines of all engines, for a log whose engine is not recognised."""
    first, *others = _catalogues().values()
    return first.and_all(others).with_common(signatures.common())


def _catalogues() -> dict[str, signatures.Catalogue]:
    files = {**signatures.engine_files(), **signature_files()}
    return {name: signatures.load(path) for name, path in sorted(files.items(), key=lambda each: each[0] != "vllm")}


def signature_files() -> dict[str, Path]:
    """
    Return the shipped catalogue of each backend by name: ``ENGINE/signatures.toml`` or
    ``ENGINE/signatures-VARIANT.toml``.
    """
    found = sorted(Path(__file__).parent.glob("*/signatures*.toml"))
    return {path.parent.name + path.stem.removeprefix("signatures"): path for path in found}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All facts that a launcher needs to start one server."""

    name: str
    """The deployment's name, which log files and containers also have."""
    argv: tuple[str, ...]
    env: Mapping[str, str]
    port: int
    model: str
    """The name of the model in the server's model list."""
    boot_s: float
    pass_env: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    image: str | None = None


class Scoring(NamedTuple):
    """How to request the log-probabilities of a prompt's tokens, and of the most probable tokens at each position."""

    path: str
    member: str
    """Field with the token ids of the prompt."""
    top: str
    """Field with the number of most probable tokens."""
    body: Mapping[str, Any]
    """The other fields."""
    reader: str
    """Format of the answer: ``vllm`` or ``sglang``."""
    named: bool = True
    """Whether the request contains the model's name, as in the OpenAI API."""


class Backend:
    """Base class of backends. A subclass defines its name, its `argv`, and all that differs from the defaults here."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """Name of the module that an interpreter must be able to import; None: any interpreter works."""
    distributions: tuple[str, ...] = ()
    """Names of the engine's distributions, in the order in which they are asked for the version."""
    install: tuple[str, ...] = ()
    """Requirements that ``longctx engine`` installs; empty if the command cannot install this engine."""
    uninstall: tuple[str, ...] = ()
    """Distributions to remove after the installation."""
    elsewhere: ClassVar[str] = ", or name an interpreter that has it with --longctx-python"
    """Last part of the message if the engine is not found: other ways to install it."""
    launches: ClassVar[bool] = True
    """Whether the engine can be launched. If not, only the server's URL is known."""
    on_cpu: ClassVar[bool] = False
    """Whether PyTorch runs the models of this backend on the CPU, whose speed is then measured before any boot."""
    shares_machine: ClassVar[bool] = False
    """Whether the engine is so small that every xdist worker can boot its own server."""
    health: ClassVar[str] = "/health"
    dies_unhealthy: ClassVar[bool] = False
    """Whether status 503 from the health endpoint after the boot means that the engine is dead. Otherwise, it may be busy."""
    version_path: ClassVar[str | None] = "/version"
    unmodelled_flags: ClassVar[frozenset[str]] = frozenset()
    """Flags that change the memory of a device and that `predict` ignores."""
    reset_path: ClassVar[str | None] = None
    """Endpoint whose POST resets the prefix cache; None if the engine has none."""
    body: ClassVar[Mapping[str, Any]] = MappingProxyType({"ignore_eos": True})
    """Fields added to each completion request; ``ignore_eos`` makes the number of output tokens exact."""
    tracing: ClassVar[Mapping[str, Any]] = MappingProxyType({"logprobs": 2})
    """Fields of a completion request for the log-probability of each token and of one other token."""
    scoring: ClassVar[Scoring | None] = None
    """The way to request the log-probabilities of a prompt; None if the engine does not return them."""
    disaggregated: ClassVar[bool] = False
    """Whether a decode role answers the requests, with KV caches from a prefill role."""
    salted: ClassVar[bool] = False
    """
    Whether a completion request may have ``cache_salt``, with which the prefix cache matches only requests of an equal
    salt.
    """
    names_cached_if_any: ClassVar[bool] = False
    """Whether usage, with the flags used here, omits cached tokens only if none are cached."""
    host_flag: ClassVar[str | None] = None
    """Flag for the address to listen at, which `argv` omits. None if the server cannot be reached inside a container."""
    key_flag: ClassVar[str | None] = None
    """Flag that makes the server require an API key, if the environment cannot set one."""
    key_variable: ClassVar[str | None] = None
    """Environment variable that makes the server require an API key."""
    metrics: ClassVar[MetricNames] = MetricNames()
    failures: ClassVar[str | None] = None
    """Backend whose catalogue is used; None for the backend's own."""

    @property
    def called(self) -> str:
        """Name of the backend's engine in messages."""
        return f"the engine of backend {self.name!r}"

    @cached_property
    def catalogue(self) -> signatures.Catalogue:
        """Catalogue of log lines of the backend's engine."""
        path = signature_files().get(self.failures or self.name)
        return load_signatures(path).with_common(signatures.common()) if path else signatures.Catalogue()

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        """
        Return the command line that serves *model* at *port* with *python*, on loopback unless `host_flag` sets an
        address.
        """
        raise NotImplementedError

    def version_in(self, answer: Mapping[str, Any]) -> str | None:
        """
        Return the engine version in the response of `version_path`, in a form that PEP 440 compares; None if the
        response has no version.
        """
        version = answer.get("version")
        return version if isinstance(version, str) else None

    def limit_in(self, row: Mapping[str, Any]) -> int | None:
        """Return the longest context in tokens from the model's row in ``/v1/models``; None if the row has none."""
        limit = row.get("max_model_len")
        return limit if isinstance(limit, int) else None

    def env(self, deployment: Deployment) -> dict[str, str]:
        """Return the environment variables that the engine needs. Variables of the deployment override them."""
        return {}

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        """
        Return the predicted boot of *deployment* on devices of *device_bytes* (None if unknown); None if it cannot be
        predicted.
        """
        return None

    def takes_kv_dtype(self, deployment: Deployment, shape: Shape) -> bool:
        """Return whether `predict` models the KV cache dtype that a checkpoint may name."""
        return False

    def receives_kv(self, deployment: Deployment) -> bool:
        """Return whether the server of *deployment* is a decode role, which counts transferred tokens as cached."""
        return self.disaggregated

    def tensor_parallel(self, deployment: Deployment) -> int:
        """Return the number of devices that share each layer of *deployment*."""
        return 1

    def unmodelled(self, deployment: Deployment, shape: Shape) -> str:
        """
        Return the reason why `predict` would be wrong about *deployment* with a *shape* from config.json; empty if none
        is known.
        """
        if unknown := sorted(self.unmodelled_flags & {name.replace("_", "-") for name in deployment.flags}):
            return f"the memory of {self.name} with --{unknown[0]} is not modelled"
        asked = shape.whole.scheme.kv_dtype if shape.whole else None
        unsaid = deployment.flags.get("kv-cache-dtype", "auto") == "auto"
        if asked and unsaid and not self.takes_kv_dtype(deployment, shape):
            return (
                f"the memory of {self.name} is not modelled where config.json asks for a KV cache in {asked}: "
                "name a --kv-cache-dtype"
            )
        return ""

    def unsized(self, deployment: Deployment, shape: Shape) -> tuple[str, ...]:
        """Return the flags of *deployment* that `predict` reads without knowing their memory for this *shape*."""
        return ()

    def host_s(self, deployment: Deployment, shape: Shape, prompt_tokens: int) -> float:
        """
        Return the seconds of one prefill for which the devices wait for the host; 0 unless this time is known to grow
        with the prompt.
        """
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
        """
        Return the recipe of *deployment* for launchers. *host* is the address to listen at, *key* the API key to
        require.
        """
        # Last on the command line, so that no flag of the deployment can open the server to the network.
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


def named(name: str) -> Backend:
    """Return the shipped backend with the name *name*. Raises `UsageError`."""
    if name not in registry.BACKENDS:
        raise UsageError(unknown("backend", name, registry.BACKENDS))
    made: Backend = registry.load(registry.BACKENDS[name])()
    return made
