"""A deployment: which model, on which hardware, with which of the engine's own flags."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pytest_longctx import paths, toml
from pytest_longctx.deployments.cpu_speed import DEADLINE_FACTOR
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.errors import TableError

Weights = Literal["real", "random", "probe", "unknown"]

FlagValue = str | int | float | bool

FASTEST = "fastest"
"""Of ``dtype``, on a CPU: whichever of bfloat16 and float32 it multiplies faster in; settled before the boot."""


def _hardware(text: str) -> str:
    return str(Hardware.parse(text))


HardwareName = Annotated[str, AfterValidator(_hardware)]
"""``8xH200`` or ``cpu``, spelled as `Hardware` spells it."""


class Model(toml.Table):
    """What is served. Exactly one of *make*, *path* and *id* says where it comes from."""

    name: str
    """The name findings use in their scope."""
    make: str | None = None
    """A checkpoint to make on the spot; see `pytest_longctx.deployments.models`."""
    path: str | None = None
    """A folder on the server's machine, or a GGUF file; ``~`` and relative paths are allowed."""
    id: str | None = None
    """A name that the engine resolves itself, such as a Hugging Face repository."""
    shape: str | None = None
    """A shape of `pytest_longctx.deployments.shape.known`, where no ``config.json`` is at hand; for predictions only."""
    weight_bits: Annotated[float, Field(gt=0)] = 16
    """Bits of a stored parameter, scales included; for predictions only."""
    weights: Weights = "real"
    ordinary_ids: Annotated[tuple[int, int], Field(strict=False)] = (1000, 30_000)
    """Random prompts use ids from the first up to, not including, the second: no special tokens may lie between."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.make, self.path, self.id)) > 1:
            raise ValueError("a model has one origin; give only one of make, path and id")
        low, high = self.ordinary_ids
        if not 0 <= low < high - 1:
            raise ValueError(f"ordinary_ids: [{low}, {high}] holds fewer than two ids")
        return self


Positive = Annotated[float, Field(gt=0)]

MEASURED = Field(ge=0, exclude=True)
"""Of the machine and not of the deployment: no part of its digest, so that it stays the same deployment on every machine."""


class Timeouts(toml.Table):
    """How long to wait. Each must exceed the predicted time, so that the suite never causes the failure it reports."""

    boot_s: Positive = 1800.0
    """From the start of the process to the first generated token."""
    boot_stall_s: Positive = 600.0
    """How long a boot may say nothing new before it is said to hang; at most half of boot_s. Compilers are silent for minutes."""
    usual_boot_s: Positive | None = None
    """What a boot was seen to take; for plans only."""
    admission_s: Positive = 10.0
    """How long requests may wait while none runs, nothing moves and the KV cache is empty; six times as long where it is not."""
    stall_s: Positive = 40.0
    """
    How long nothing may move before a request is said to hang: no chunk, no counter, no use of the KV cache, no line of the log.

    Until a prompt is seen to be read in several steps, what all of it takes at the slowest rate is added.
    """
    canary_s: Positive = 30.0
    """What a request of a few tokens may take after one that came to nothing."""
    answer_s: Positive = 120.0
    """What every request may take, however short; one that is still at work then is too slow here, and no verdict."""
    slowest_prefill_tokens_per_s: Positive = 500.0
    slowest_decode_tokens_per_s: Positive = 0.5

    expected_boot_s: Annotated[float | None, MEASURED] = None
    """Measured on this machine before the run, and no part of a deployment's file: what a boot should take."""
    expected_s_per_token: Annotated[float, MEASURED] = 0.0
    expected_s_per_token_squared: Annotated[float, MEASURED] = 0.0
    """The law by which a prefill should take its time here; 0 where nothing was measured."""

    @model_validator(mode="before")
    @classmethod
    def _measured(cls, content: Any) -> Any:
        for name, field in cls.model_fields.items():
            if field.exclude and isinstance(content, dict) and name in content:
                raise ValueError(f"{name} is measured on the machine, and no key of a file")
        return content

    def expected_prefill_s(self, prompt_tokens: int) -> float:
        """What reading a prompt should take on this machine; 0 where that is not known."""
        return self.expected_s_per_token * prompt_tokens + self.expected_s_per_token_squared * prompt_tokens**2

    @property
    def boot_limit_s(self) -> float:
        """The deadline of a boot: what the deployment says, or more on a machine that is measured to be slow."""
        return max(self.boot_s, DEADLINE_FACTOR * (self.expected_boot_s or 0.0))

    @property
    def silent_boot_s(self) -> float:
        """How long a boot may say nothing new."""
        return min(self.boot_stall_s, self.boot_limit_s / 2)

    def one_step_s(self, prompt_tokens: int) -> float:
        """
        What a server may take that reads *prompt_tokens* in one step, in which nothing moves: the time at the slowest rate.

        On a machine that is measured to be slower than that, `DEADLINE_FACTOR` times what the prompt should take there.
        """
        expected_s = DEADLINE_FACTOR * self.expected_prefill_s(prompt_tokens)
        return max(prompt_tokens / self.slowest_prefill_tokens_per_s, expected_s)

    def request_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """The deadline of one request from its first byte: *answer_s* and the time its tokens need at the slowest rates."""
        return self.answer_s + self.one_step_s(prompt_tokens) + output_tokens / self.slowest_decode_tokens_per_s


def _mount(text: str) -> str:
    host, _, inside = text.partition(":")
    if (
        not host
        or not inside.startswith("/")
        or inside.count(":") > 1
        or inside.partition(":")[2] not in ("", "ro", "rw")
    ):
        raise ValueError(
            f"{text!r} is no mount; write HOST_FOLDER:/FOLDER_INSIDE, and :ro after it where nothing may be written"
        )
    return text


class Docker(toml.Table):
    """How the docker launcher makes a container of a deployment. What the hardware needs is added by itself."""

    python: str = "python3"
    """The interpreter in the image. It is started with the engine's module, in place of the image's own entrypoint."""
    entrypoint: toml.Names = ()
    """What is to run that interpreter, for an image whose entrypoint sets something up first."""
    pull: Literal["never", "missing"] = "never"
    gpus: toml.Names = ()
    """Which NVIDIA GPUs: indices, UUIDs, or CDI names such as ``nvidia.com/gpu=0``; empty: as many as ``hardware`` says."""
    devices: toml.Names = ()
    """More device files of the host, such as ``/dev/infiniband``."""
    mounts: Annotated[tuple[Annotated[str, AfterValidator(_mount)], ...], toml.LISTED] = ()
    """More folders, as ``HOST:/INSIDE`` or ``HOST:/INSIDE:ro``; the model's own is mounted by itself."""
    network: str = "bridge"
    """``host``: the server listens on the host's loopback and nothing is published."""
    shm_gib: Positive = 10.0
    """Size of ``/dev/shm``; Docker's own 64 MiB are too small for workers that talk through it."""
    memory_gib: Positive | None = None
    """The most memory it may take, swap included, before the kernel ends it; None: no limit."""
    ulimits: dict[str, int] = Field(default_factory=dict)
    """Soft and hard limit alike, for instance ``memlock = -1``."""


class Kubernetes(toml.Table):
    """How a deployment becomes Pods, beside what its ``[docker]`` table says of the image, its mounts and its memory."""

    models: str | None = None
    """A folder of the node, by its absolute path, or a claim, by its name; None: a model by name is loaded at each boot."""
    secret: str = "longctx"  # noqa: S105 - its name
    """The Secret with the values of ``pass_env``, under their own names; what is not there is left out."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerate: toml.Names = ()
    """Taints that do not keep it away, by their keys."""
    runtime_class: str | None = None
    devices_per_node: Annotated[int, Field(gt=0)] | None = None
    """None: as many as the usual host of that kind has."""
    hours: Positive = 12.0
    """After so long the cluster ends a Pod that a test run made, whatever became of the run."""


class Deployment(toml.Table):
    """One server configuration, as a value."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: str
    backend: str
    model: Model
    hardware: HardwareName | None = None
    """What the server needs; None for a server that already runs somewhere."""
    version: toml.VersionRange | None = None
    """Engine versions that know these flags."""
    image: str | None = None
    """The container image, for launchers that use one: ``name:tag``, or ``name@sha256:...``, which stays what it is."""
    docker: Docker = Docker()
    kubernetes: Kubernetes = Kubernetes()
    max_model_len: int | None = None
    """Longest context in tokens, prompt and answer together; None: ask the server."""
    longest_prompt: int | None = None
    """Do not send longer prompts here: the server would take them, but this hardware would need hours."""
    longest_prompt_s: Positive | None = None
    """Do not send prompts here that this machine, as measured, would read for longer than so many seconds."""
    only_named: bool = False
    """Only findings that name this deployment are judged on it: it is there to fail, or too slow for anything else."""
    needs_full_context: bool = True
    """The boot fails when the KV cache cannot hold one request of max_model_len. False documents that it may."""
    flags: dict[str, FlagValue] = Field(default_factory=dict)
    """The engine's own long options without their dashes; ``true`` is a bare flag, ``false`` leaves it out."""
    env: dict[str, str] = Field(default_factory=dict)
    pass_env: toml.Names = ()
    """More variables to hand through to the server, for instance HF_TOKEN."""
    timeouts: Timeouts = Timeouts()

    def arguments(self) -> tuple[str, ...]:
        """The flags as a command line has them."""
        argv: list[str] = []
        for name, value in self.flags.items():
            if value is not False:
                argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return tuple(argv)


def attached(backend: str) -> Deployment:
    """A server that somebody else started and of which only the address is known."""
    return Deployment(
        name="attached",
        title="a server that was already running",
        backend=backend,
        model=Model(name="unknown", weights="unknown"),
    )


def load(path: Path) -> Deployment:
    """
    The deployment at *path*. Raises `TableError`.

    ``like = "NAME"`` in it takes all that it does not say itself from NAME.toml in the same folder, key by key in its tables.
    """
    content = toml.read(path)
    like = content.pop("like", None)
    if like is None:
        return toml.check(content, Deployment, str(path))
    taken = toml.read(path.parent / f"{like}.toml")
    if "like" in taken:
        raise TableError(
            f"{path}: like: {like} is itself like {taken['like']!r}; name that one, so that two files say it all"
        )
    return toml.check(_completed(content, taken), Deployment, str(path))


def _completed(content: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    """*content*, with what only *taken* has."""
    both = {name: {**taken[name], **table} for name, table in content.items() if _tables(table, taken.get(name))}
    return {**taken, **content, **both}


def _tables(one: object, other: object) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def load_all(folders: tuple[Path, ...]) -> dict[str, Deployment]:
    """Every deployment under *folders*, by name. Raises `TableError`."""
    found: dict[str, Deployment] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.toml")):
        deployment = load(path)
        if path.stem != deployment.name:
            raise TableError(f"{path}: the name is {deployment.name!r}; the file must be called {deployment.name}.toml")
        if deployment.name in found:
            raise TableError(f"{path}: there is another deployment called {deployment.name!r}")
        found[deployment.name] = deployment
    return found


def load_deployments(*folders: str | Path) -> dict[str, Deployment]:
    """
    Every deployment by name: those that ship with the package, and those of your *folders*, as for ``--longctx-data``.

    Raises `UsageError` for a folder without data, and `TableError` for a wrong file.
    """
    return load_all(tuple(folder / "deployments" for folder in paths.data(map(Path, folders), "load_deployments")))
