"""A deployment: a model, the hardware, and the engine's own flags."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pytest_longctx import paths, toml
from pytest_longctx.deployments.cpu_speed import DEADLINE_FACTOR
from pytest_longctx.deployments.hardware import ANY_GPU, INSTANCES, Hardware
from pytest_longctx.errors import TableError

Weights = Literal["real", "random", "probe", "unknown"]

FlagValue = str | int | float | bool

FASTEST = "fastest"
"""
Value of ``dtype`` on a CPU: bfloat16 or float32, whichever was measured to be faster. It is resolved before the boot.
"""


def _hardware(text: str) -> str:
    return str(Hardware.parse(INSTANCES.get(text.lower(), text)))


HardwareName = Annotated[str, AfterValidator(_hardware)]
"""``8xH200`` or ``cpu``, in the spelling of `Hardware`."""


class Model(toml.Table):
    """The model of a deployment. Exactly one of *make*, *path* and *id* names its origin."""

    name: str
    """The model's name in the scope of findings."""
    make: str | None = None
    """A checkpoint that is generated on demand; see `pytest_longctx.deployments.models`."""
    path: str | None = None
    """A folder on the server's machine, or a GGUF file. ``~`` and relative paths are allowed."""
    id: str | None = None
    """A name that the engine resolves, such as a Hugging Face repository."""
    shape: str | None = None
    """
    A shape of `pytest_longctx.deployments.shape.known`, if there is no ``config.json``. Used only for predictions.
    """
    weight_bits: Annotated[float, Field(gt=0)] = 16
    """Bits of a stored parameter, scales included. Used only for predictions."""
    weights: Weights = "real"
    ordinary_ids: Annotated[tuple[int, int], Field(strict=False)] = (1000, 30_000)
    """Random prompts use ids from the first up to, but excluding, the second. The range must have no special tokens."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.make, self.path, self.id)) > 1:
            raise ValueError("a model has one origin; give exactly one of make, path and id")
        low, high = self.ordinary_ids
        if not 0 <= low < high - 1:
            raise ValueError(f"ordinary_ids: [{low}, {high}] has fewer than two ids")
        return self


Positive = Annotated[float, Field(ge=1e-6, le=1e12)]
"""A time, a rate or a size. The limits keep quotients of two finite, and below what a wait can take."""

MEASURED = Field(ge=0, exclude=True)
"""A property of the machine. It is not part of the digest, so a deployment has the same digest on every machine."""


class Timeouts(toml.Table):
    """
    Timeouts of a deployment. Each must exceed the predicted time, so that the suite never causes the failure that it
    reports.
    """

    boot_s: Positive = 1800.0
    """From the start of the process to the first generated token."""
    boot_stall_s: Positive = 600.0
    """
    A boot without new output for this time counts as hung. At most half of boot_s, because compilers log nothing for
    minutes.
    """
    usual_boot_s: Positive | None = None
    """A measured boot time. Used only for plans."""
    admission_s: Positive = 10.0
    """
    Seconds that requests may wait while none runs, nothing changes and the KV cache is empty; six times as many if it
    is not empty.
    """
    stall_s: Positive = 40.0
    """
    A request without progress (chunks, counters, KV cache usage, log lines) for this time counts as hung.

    The prompt's whole time at the slowest rate is added until it is known to be computed in several steps.
    """
    canary_s: Positive = 30.0
    """Timeout of the short request after a failed one."""
    answer_s: Positive = 120.0
    """
    Base time in seconds of every request, also of a short one. A request that still runs at its deadline gets no
    verdict.
    """
    slowest_prefill_tokens_per_s: Positive = 500.0
    slowest_decode_tokens_per_s: Positive = 0.5

    expected_boot_s: Annotated[float | None, MEASURED] = None
    """Expected boot time, measured on this machine before the run. The file has no such key."""
    expected_s_per_token: Annotated[float, MEASURED] = 0.0
    expected_s_per_token_squared: Annotated[float, MEASURED] = 0.0
    """Measured coefficient of a prefill's time on this machine; 0 if nothing was measured."""

    @model_validator(mode="before")
    @classmethod
    def _measured(cls, content: Any) -> Any:
        for name, field in cls.model_fields.items():
            if field.exclude and isinstance(content, dict) and name in content:
                raise ValueError(f"{name} is measured on the machine and cannot be set in a file")
        return content

    def expected_prefill_s(self, prompt_tokens: int) -> float:
        """
        Return the expected prefill time of a prompt in seconds, for the timeouts of a deployment on this machine; 0 if
        unknown.
        """
        return self.expected_s_per_token * prompt_tokens + self.expected_s_per_token_squared * prompt_tokens**2

    @property
    def boot_limit_s(self) -> float:
        """Timeout of a boot: the deployment's, or a longer one if the machine was measured to be slow."""
        return max(self.boot_s, DEADLINE_FACTOR * (self.expected_boot_s or 0.0))

    @property
    def silent_boot_s(self) -> float:
        """Longest time without new output until a deployment's boot times out."""
        return min(self.boot_stall_s, self.boot_limit_s / 2)

    def one_step_s(self, prompt_tokens: int) -> float:
        """
        Return the timeout in seconds of one step that computes *prompt_tokens* without progress, at the slowest rate.

        If the machine was measured to be slower, `DEADLINE_FACTOR` times the expected prefill time.
        """
        expected_s = DEADLINE_FACTOR * self.expected_prefill_s(prompt_tokens)
        return max(prompt_tokens / self.slowest_prefill_tokens_per_s, expected_s)

    def request_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """
        Return the timeout of a request in seconds from its first byte: *answer_s* plus the time of its tokens at the
        slowest rates.
        """
        return self.answer_s + self.one_step_s(prompt_tokens) + output_tokens / self.slowest_decode_tokens_per_s


def _mount(text: str) -> str:
    host, _, inside = text.partition(":")
    if (
        not host
        or not inside.startswith("/")
        or inside.count(":") > 1
        or inside.partition(":")[2] not in ("", "ro", "rw")
    ):
        raise ValueError(f"{text!r} must be a mount: HOST_FOLDER:/FOLDER_INSIDE, followed by :ro for read-only")
    return text


class Docker(toml.Table):
    """Options of the docker launcher for a deployment's container. Options for the hardware are added automatically."""

    python: str = "python3"
    """The interpreter in the image. It starts the engine's module and replaces the image's entrypoint."""
    entrypoint: toml.Names = ()
    """A wrapper that starts the interpreter, for an image whose entrypoint prepares the environment."""
    pull: Literal["never", "missing"] = "never"
    pull_s: Annotated[Positive, Field(exclude=True)] = 7200.0
    """Time limit of a pull in seconds. It does not affect the server, so it is not part of the digest."""
    gpus: toml.Names = ()
    """NVIDIA GPUs as indices, UUIDs, or CDI names such as ``nvidia.com/gpu=0``; empty: as many as in ``hardware``."""
    devices: toml.Names = ()
    """Additional device files of the host, such as ``/dev/infiniband``."""
    mounts: Annotated[tuple[Annotated[str, AfterValidator(_mount)], ...], toml.LISTED] = ()
    """Additional folders, as ``HOST:/INSIDE`` or ``HOST:/INSIDE:ro``. The model's folder is mounted automatically."""
    network: str = "bridge"
    """``host``: the server listens on the host's loopback and no port is published."""
    shm_gib: Positive = 10.0
    """Size of ``/dev/shm``. Docker's default of 64 MiB is too small for workers that communicate through it."""
    memory_gib: Positive | None = None
    """Memory limit in GiB, swap included, above which the kernel kills the container; None for no limit."""
    ulimits: dict[str, int] = Field(default_factory=dict)
    """Limits, soft and hard alike, for instance ``memlock = -1``."""


class Kubernetes(toml.Table):
    """Options of a deployment's Pods, in addition to the image, mounts and memory of its ``[docker]`` table."""

    models: str | None = None
    """
    An absolute path of a folder on the node, or the name of a claim; None: a model given by name is downloaded at each
    boot.
    """
    secret: str = "longctx"  # noqa: S105 - its name
    """The Secret with the values of ``pass_env`` under their own names. Missing values are left out."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerate: toml.Names = ()
    """Keys of the taints to tolerate."""
    runtime_class: str | None = None
    devices_per_node: Annotated[int, Field(gt=0)] | None = None
    """GPUs per node; None: as many as a usual host of that kind has."""
    hours: Positive = 12.0
    """The cluster ends a Pod of a test run after this time, even if the run was lost."""


class Deployment(toml.Table):
    """A server configuration, as in one TOML file: a model, the hardware that it needs, and the engine's flags."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=200)]
    title: str
    backend: str
    model: Model
    hardware: HardwareName | None = None
    """The hardware that the server needs; None for a server that already runs."""
    version: toml.VersionRange | None = None
    """Engine versions that support these flags."""
    image: str | None = None
    """The container image for launchers that use one: ``name:tag``, or ``name@sha256:...``, which never changes."""
    docker: Docker = Docker()
    kubernetes: Kubernetes = Kubernetes()
    max_model_len: int | None = None
    """Longest context in tokens, prompt and answer together; None: the server reports it."""
    context_lengths: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(strict=False)] = ()
    """
    For ``hardware = "1xGPU"``: values of max_model_len, longest first.

    The first one is used that is predicted to fit this machine's GPU and to be computed within *longest_prompt_s*.
    """
    longest_prompt: int | None = None
    """Longest prompt to send, in tokens. The server accepts longer ones, but they would take hours on this hardware."""
    longest_prompt_s: Positive | None = None
    """
    Longest expected prefill time of a prompt in seconds, as measured on this machine. Longer prompts are not sent.
    """
    only_named: bool = False
    """
    Whether only findings that name this deployment are judged, because it is expected to fail, or is too slow for
    others.
    """
    only_questions: toml.Names = ()
    """Judge only findings with one of these questions, or that name this deployment; empty: all questions."""
    on_request: bool = False
    """
    Whether the deployment boots only if ``--longctx-deployment`` names it, because it is one of too many variants for a
    usual run.
    """
    needs_full_context: bool = True
    """
    Whether the boot fails if the KV cache cannot hold one request of max_model_len. False states that the cache may be
    smaller.
    """
    flags: dict[str, FlagValue] = Field(default_factory=dict)
    """The engine's own long options without dashes. ``true`` is a flag without a value, ``false`` omits it."""
    env: dict[str, str] = Field(default_factory=dict)
    pass_env: toml.Names = ()
    """Additional environment variables for the server, for instance HF_TOKEN."""
    timeouts: Timeouts = Timeouts()

    @model_validator(mode="after")
    def _one_context(self) -> Self:
        lengths = self.context_lengths
        if lengths and (self.hardware is None or Hardware.parse(self.hardware).kind != ANY_GPU):
            raise ValueError(f'context_lengths is for hardware = "1x{ANY_GPU}"; write max_model_len')
        if lengths and self.max_model_len is not None:
            raise ValueError("context_lengths and max_model_len cannot both be given")
        if list(lengths) != sorted(set(lengths), reverse=True):
            raise ValueError(f"context_lengths: {list(lengths)} must be in descending order")
        return self

    @property
    def needs(self) -> Hardware:
        """The hardware to request from a container engine or a cluster. For any GPU, the backend decides the vendor."""
        wanted = Hardware.parse(self.hardware) if self.hardware else Hardware("cpu")
        amd = wanted.kind == ANY_GPU and self.backend.endswith("-rocm")
        return Hardware("MI300X", wanted.count) if amd else wanted

    def arguments(self) -> tuple[str, ...]:
        """Return the engine flags as command-line arguments."""
        argv: list[str] = []
        for name, value in self.flags.items():
            if value is not False:
                argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return tuple(argv)


def attached(backend: str) -> Deployment:
    """Return a deployment for a running server of which only the address is known."""
    return Deployment(
        name="attached",
        title="a server that was already running",
        backend=backend,
        model=Model(name="unknown", weights="unknown"),
    )


def load(path: Path) -> Deployment:
    """
    Return the deployment in the TOML file at *path*. Raises `TableError`.

    ``like = "NAME"`` takes all missing keys from NAME.toml in the same folder or, if it has none, from the shipped deployment
    of this name. Tables are merged key by key.
    """
    content = toml.read(path)
    like = content.pop("like", None)
    if like is None:
        return toml.check(content, Deployment, str(path))
    taken = toml.read(_named(like, path.parent))
    if "like" in taken:
        raise TableError(
            f"{path}: like: {like} is itself like {taken['like']!r}; name that deployment, because only one level is allowed"
        )
    return toml.check(_completed(content, taken), Deployment, str(path))


def _named(name: str, folder: Path) -> Path:
    """Return the file of the deployment *name*: in *folder*, or among the shipped deployments if only they have it."""
    own, shipped = (each / f"{name}.toml" for each in (folder, paths.suites() / "deployments"))
    return shipped if shipped.is_file() and not own.exists() else own


def _completed(content: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    """Return the *content* of a deployment's file, completed with the keys of *taken*, the deployment on which it builds."""
    both = {name: {**taken[name], **table} for name, table in content.items() if _tables(table, taken.get(name))}
    return {**taken, **content, **both}


def _tables(one: object, other: object) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def load_all(folders: tuple[Path, ...]) -> dict[str, Deployment]:
    """Return every deployment under *folders*, by name. Raises `TableError`."""
    found: dict[str, Deployment] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.toml")):
        deployment = load(path)
        if path.stem != deployment.name:
            raise TableError(f"{path}: the name is {deployment.name!r}; rename the file to {deployment.name}.toml")
        if deployment.name in found:
            raise TableError(f"{path}: there is another deployment called {deployment.name!r}")
        found[deployment.name] = deployment
    return found


def load_deployments(*folders: str | Path) -> dict[str, Deployment]:
    """
    Return every deployment by name: the shipped ones, and those of your *folders*, as for ``--longctx-data``.

    Raises `UsageError` for a folder without data, and `TableError` for a wrong file.
    """
    return load_all(tuple(folder / "deployments" for folder in paths.data(map(Path, folders), "load_deployments")))
