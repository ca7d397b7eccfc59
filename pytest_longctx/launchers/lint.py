"""
Lints: named checks of a start command for documented mistakes.

There are two kinds: mistakes that prevent a boot, and mistakes that make a result invalid or a host unsafe. The most
severe come first.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

from pytest_longctx import toml
from pytest_longctx.backends import versions
from pytest_longctx.backends.sglang import memory, radix_tree
from pytest_longctx.findings.ask import Ask
from pytest_longctx.launchers.start_command import StartCommand, of_command, of_pod
from pytest_longctx.observation import Observation
from pytest_longctx.units import duration

_PROGRAMS = ("python", "python3", "vllm", "sglang", "bash", "sh")
_PARALLEL = (
    ("--tensor-parallel-size", "-tp", "--tp", "--tp-size"),
    ("--pipeline-parallel-size", "-pp", "--pp", "--pp-size"),
    ("--data-parallel-size", "-dp", "--dp", "--dp-size"),
)
"""Flags of each way to distribute a server over processes."""
_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")
_MOVING = ("", "latest", "nightly", "main", "dev")
"""Image tags that move to newer images."""
_USUAL_CACHE = "/root/.cache/huggingface"
_LONG_WALK_S = 60.0
"""Shortest reported duration of the radix walk, in seconds."""


class Image(toml.Table):
    """An image whose entrypoint starts a server."""

    name: str
    entrypoint: toml.Names


class Variable(toml.Table):
    """An environment variable that newer versions ignore."""

    name: str
    instead: str
    engine: str | None = None
    since: toml.VersionRange | None = None


class Known(toml.Table):
    """The content of ``lint.toml``."""

    image: Annotated[tuple[Image, ...], toml.LISTED] = ()
    variable: Annotated[tuple[Variable, ...], toml.LISTED] = ()


class Lint(NamedTuple):
    """One lint. *found* returns the fault of a start command; None if the command lacks the fault."""

    name: str
    found: Callable[[StartCommand], str | None]


@cache
def known() -> Known:
    """Return the images and variables that the lints know."""
    return toml.load(Path(__file__).with_suffix(".toml"), Known)


def _double_entrypoint(start: StartCommand) -> str | None:
    own = next((row.entrypoint for row in known().image if row.name == _untagged(start.image)), ())
    first = start.entrypoint or own
    serves = "serve" in first or any(word.endswith(("api_server", "launch_server")) for word in first)
    if not (serves and start.command and PurePosixPath(start.command[0]).name in _PROGRAMS):
        return None
    return f"it would run: {' '.join((*first, *start.command[:3]))} ..."


def _cache_root_as_model(start: StartCommand) -> str | None:
    model = start.model or ""
    is_cache = model.startswith("/") and model in {start.env.get(name) for name in _CACHES}
    if is_cache or PurePosixPath(model).name.startswith("models--"):
        return (
            f"{model} is a folder of the Hugging Face cache without a config.json; give the model's name, or the folder "
            "that contains config.json"
        )
    return None


def _snapshot_as_model(start: StartCommand) -> str | None:
    if PurePosixPath(start.model or "").parent.name != "snapshots":
        return None
    return "a snapshot holds only the downloaded files and may lack the processor files; a model given by name downloads the rest"


def _read_only_cache(start: StartCommand) -> str | None:
    if start.model is None or start.model.startswith("/") or start.env.get("HF_HUB_OFFLINE") == "1":
        return None
    place = next((start.env[name] for name in _CACHES if start.env.get(name)), _USUAL_CACHE)
    for inside, read_only in start.mounts:
        if read_only and PurePosixPath(place).is_relative_to(inside):
            return f"{start.model} is a name, so the engine writes into {place}; HF_HUB_OFFLINE=1 makes the engine only read"
    return None


def _unknown_flag(start: StartCommand) -> str | None:
    for engine in versions.meant(start.engine or "", start.version):
        for word in start.command:
            if not word.startswith("--"):
                continue
            taken, flag = engine.takes(word), word.partition("=")[0]
            if taken == "unknown":
                return f"{flag} is not a flag of {engine.engine} {engine.version}"
            if taken == "ambiguous":
                either = ", ".join(engine.candidates(word)[:4])
                return f"{flag} is a prefix of several flags of {engine.engine} {engine.version}: {either}"
    return None


def _impatient_probe(start: StartCommand) -> str | None:
    if start.patience_s is None or start.boot_s is None or start.patience_s > start.boot_s:
        return None
    return f"the server is killed after {start.patience_s:.0f} s; a recorded boot took {start.boot_s:.0f} s"


def _small_shm(start: StartCommand) -> str | None:
    workers = start.workers or prod(_count(start.flag(*names)) or 1 for names in _PARALLEL)
    if not start.in_container or start.has_shm or workers < 2:
        return None
    return f"{workers} workers communicate through a /dev/shm of less than 1 GiB; a container has 64 MiB by default"


def _needs_a_person(start: StartCommand) -> str | None:
    return (
        "the command prompts for input or needs a terminal, and does nothing without a terminal"
        if start.asks_a_person
        else None
    )


def _reused_container(start: StartCommand) -> str | None:
    return "an existing container is started again, with the flags of its creation" if start.may_reuse else None


def _open_to_all(start: StartCommand) -> str | None:
    locked = start.flag("--api-key") or start.env.get("VLLM_API_KEY")
    return (
        "the port is published on every interface, and no API key is required"
        if start.open_to_all and not locked
        else None
    )


def _unpinned_image(start: StartCommand) -> str | None:
    image = start.image
    if image is None:
        return None
    tag = image.rpartition("/")[2].partition(":")[2]
    return (
        f"{image} is a moving tag: it can name another image later"
        if tag in _MOVING or tag.startswith("latest-")
        else None
    )


def _radix_walk(start: StartCommand) -> str | None:
    walks = start.engine == "sglang" and start.version is not None and toml.overlap(start.version, radix_tree.WALKS)
    if not walks or start.flag("--disable-radix-cache") is not None:
        return None
    tokens = start.context_tokens or _count(start.flag("--context-length"))
    chunk_tokens = _count(start.flag("--chunked-prefill-size") or str(memory.CHUNK_TOKENS))
    if not chunk_tokens:  # -1: in one piece
        return None
    walk_s = radix_tree.radix_walk_s(tokens, chunk_tokens)  # a window, which would double it, is no flag
    if walk_s < _LONG_WALK_S:
        return None
    return (
        f"during the prefill of {tokens:,} tokens in chunks of {chunk_tokens:,}, the host walks its prefix cache for about "
        f"{duration(walk_s)} and the GPU waits; use --disable-radix-cache or a larger --chunked-prefill-size"
    )


def _deprecated_variable(start: StartCommand) -> str | None:
    for row in known().variable:
        if row.name in start.env and row.engine in (None, start.engine) and toml.overlap(start.version, row.since):
            return f"{row.name} is no longer read; instead: {row.instead}"
    return None


LINTS = (
    Lint("double-entrypoint", _double_entrypoint),
    Lint("cache-root-as-model", _cache_root_as_model),
    Lint("read-only-cache", _read_only_cache),
    Lint("unknown-flag", _unknown_flag),
    Lint("snapshot-as-model", _snapshot_as_model),
    Lint("impatient-probe", _impatient_probe),
    Lint("small-shm", _small_shm),
    Lint("needs-a-person", _needs_a_person),
    Lint("reused-container", _reused_container),
    Lint("open-to-all", _open_to_all),
    Lint("unpinned-image", _unpinned_image),
    Lint("deprecated-variable", _deprecated_variable),
    Lint("radix-walk", _radix_walk),
)


def names() -> tuple[str, ...]:
    """Return the names of all lints, the most severe first."""
    return tuple(lint.name for lint in LINTS)


def lint(start: StartCommand) -> Iterator[tuple[str, str]]:
    """Yield name and message of each lint that the start command *start* fails, the most severe first."""
    for each in LINTS:
        if (found := each.found(start)) is not None:
            yield each.name, found


def observe(ask: Ask, looked_for: str | None) -> Observation:
    """
    Return evidence about a published start command: flagged or sound, and the name of the lint.

    The lint is *looked_for* if found, else the most severe.
    """
    start = of_command(ask.command, ask.boot_s) if ask.command is not None else of_pod(ask.pod or "", ask.boot_s)
    found = dict(lint(replace(start, engine=ask.engine)))
    signature = looked_for if looked_for in found else next(iter(found), None)
    said = "; ".join(f"{name}: {what}" for name, what in found.items())
    return Observation("is flagged" if found else "is sound", phase="command line", signature=signature, said=said)


def _count(value: str | None) -> int:
    return int(value) if value and value.isdecimal() else 0


def _untagged(image: str | None) -> str | None:
    if image is None:
        return None
    place, slash, name = image.partition("@")[0].rpartition("/")
    return f"{place}{slash}{name.partition(':')[0]}"
