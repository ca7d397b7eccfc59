"""
Find the start of an engine in the words of a typed command: wrappers, variables, ``bash -c``, ``docker run``.

The words are not parsed as flags here.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from pytest_longctx.deployments.script import VARIABLE, commands, expanded, split
from pytest_longctx.errors import UsageError

MODULES: Mapping[str, str] = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "sglang.launch_server": "sglang",
}
"""Modules that ``python -m`` starts as a server."""
_SERVES = {"vllm": "vllm", "sglang": "sglang"}
"""Programs whose subcommand ``serve`` starts a server."""
_IMAGES = (
    (re.compile(r"(^|/)(vllm-openai(-cpu|-rocm|-cuda)?|(odh-)?vllm-[a-z]+-rhel\d+)$"), ("vllm", "serve")),
    (re.compile(r"(^|/)(vllm|vllm-dev|vllm-rocm|vllm-omni)$"), ()),
    (re.compile(r"(^|/)sglang(-[a-z]+)?$"), ()),
)
"""Maps a pattern for the end of an image's name to the words of its entrypoint. No words: the command names a program."""
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_SHELLS = frozenset({"bash", "sh", "zsh", "dash", "ash"})
_TERMINALS = frozenset({"tmux", "screen", "ssh", "su", "runuser", "script", "pdsh"})
"""Programs that get a whole command as one word."""
_SETTERS = frozenset({"export", "env", "set", "declare"})
_TAG = re.compile(r"v?(\d+\.\d+(?:\.\d+)?(?:\.?(?:post|rc|dev)\d+)?)")
_OTHER_TAGS = re.compile(r"(^|/)((lmcache|llm-d[^/]*)/|[\w-]+-rhel\d+:)")
"""Publishers whose tags are versions of their own programs."""
_YEAR = 20
"""NVIDIA tags its images by year and month, as 26.05. No engine version looks like this so far."""
_COUNT = re.compile(r"[0-9]{1,6}")
_SIZE = re.compile(r"([\d.]+)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Start:
    """The start of one server: engine, flags, variables and image."""

    engine: str
    """``vllm`` or ``sglang``."""
    words: tuple[str, ...]
    """The words for the engine's parser."""
    where: str = "the command"
    """The place where the start was found, for messages."""
    env: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    in_container: bool = False
    shm_bytes: float | None = None
    """Size of ``/dev/shm``; None: the container's default, or the host's own."""
    memory_bytes: float | None = None
    """Memory limit of one container; None: no limit."""
    gpus: int | None = None
    """Number of devices that the engine gets on one host; None: not stated, or all."""
    kind: str | None = None
    """The requested kind of device, as written in the start."""
    nodes: int = 1
    """Number of hosts that share one server."""
    raw: Any = None
    """The Pod, or the text of the command, for the checks of start commands."""

    @property
    def version(self) -> str | None:
        """The engine's version in the tag of the command's image; None if the tag names no version."""
        image = (self.image or "").partition("@")[0]
        found = _TAG.match(image.rpartition("/")[2].partition(":")[2])
        if found is None or _OTHER_TAGS.search(image) or int(found[1].partition(".")[0]) >= _YEAR:
            return None
        return found[1]


def size_bytes(text: str | float) -> float | None:
    """
    Return a memory size of a Docker command or of Kubernetes in bytes; None for other text. Docker's units are binary
    with and without an i.

    >>> size_bytes("16g") == size_bytes("16Gi") == 16 * 1024**3, size_bytes("much")
    (True, None)
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        return None
    try:
        return float(found[1]) * 1024.0 ** " kmgt".index(found[2].lower() or " ")
    except ValueError:
        return None


def count_of(value: object) -> int | None:
    """Return the number of devices in a *value* of a command or a manifest; None for any other value."""
    text = str(value)
    return int(text) if _COUNT.fullmatch(text) else None


def of_words(words: Sequence[str], where: str = "the command") -> Start:
    """Return the first engine start in the *words* of a command. Raises `UsageError` if the command starts no engine."""
    return starts(words, where)[0]


def starts(words: Sequence[str], where: str = "the command") -> list[Start]:
    """
    Return all engine starts in the *words* of a command, as split by a shell. Raises `UsageError` if the command starts
    no engine.
    """
    found = list(find_all(words))
    if not found:
        shown = shlex.join(words)
        raise UsageError(
            f"{where}: it starts no known engine\n"
            f"  asked    {shown if len(shown) < 200 else shown[:197] + '...'}\n"
            "  known    vllm serve MODEL, python -m vllm.entrypoints.openai.api_server, sglang serve,\n"
            "           python -m sglang.launch_server, docker run with the image of one of these engines\n"
            "  try      put the engine's own command after --, as in: longctx plan --hardware 8xH100 -- vllm serve MODEL"
        )
    many = len(found) > 1
    return [replace(each, where=f"{where}, server {n}" if many else where) for n, each in enumerate(found, 1)]


def find(words: Sequence[str], env: Mapping[str, str] | None = None) -> Start | None:
    """Return the first engine start in *words*, with the variables set before it; None if *words* start no engine."""
    return next(find_all(words, env), None)


def find_all(words: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Start]:
    """Yield every engine start in *words*, in order. A script may start a server for each of two roles."""
    known = dict(env or {})
    for simple in commands(words):
        rest, own, kept = list(simple), dict(known), False
        while rest and (rest[0] in _SETTERS or _ASSIGNED.fullmatch(rest[0])):
            word = rest.pop(0)
            kept = kept or word in _SETTERS - {"env"}
            if _ASSIGNED.fullmatch(word):
                name, _, value = word.partition("=")
                own[name] = expanded(value, own)
        if kept or not rest:  # what stands before a command is for that command alone
            known = own
        if found := _in_command([part for word in rest for part in _parts(word, own)], own):
            yield found


def _parts(word: str, env: Mapping[str, str]) -> list[str]:
    """
    Return the words for which *word* stands. A variable with flags stands for several words, because scripts do not
    quote it.
    """
    value = expanded(word, env)
    if word.endswith(("[@]}", "[*]}")) and VARIABLE.fullmatch(word) and value != word:
        return [part for part in split(value) if part != ";"]
    if VARIABLE.fullmatch(word) and value != word and value.startswith("-") and " " in value:
        return [part for part in split(value) if part != ";"]
    return [value]


def _in_command(words: list[str], env: Mapping[str, str]) -> Start | None:
    """Return the engine start in one simple command, after any wrappers; None if the command starts no engine."""
    for index, word in enumerate(words):
        name, after = PurePosixPath(word).name, words[index + 1 :]
        container = _container_options(name, after)
        if container is not None:
            return _docker(container)
        if name in ("kubectl", "oc") and after[:1] == ["run"]:
            return _pod(after[1:], env)
        if name in _SHELLS and (script := _script(after)) is not None:
            return find(split(script), env)
        if (found := _program(word, name, after)) is not None:
            engine, rest = found
            return Start(engine, tuple(rest), env=env)
        if name in _TERMINALS and (inner := _quoted(after, env)):
            return inner
    return None


def _quoted(words: Sequence[str], env: Mapping[str, str]) -> Start | None:
    """
    Return the engine start in a word that is itself a command, as in ``ssh HOST "vllm serve MODEL"``; None for any
    other word.
    """
    scripts = (word for word in words if " " in word.strip())
    return next((found for script in scripts if (found := find(split(script), env))), None)


def _container_options(name: str, after: Sequence[str]) -> Sequence[str] | None:
    """Return the words after ``docker run``; None for any other command."""
    if name not in ("docker", "podman", "nerdctl"):
        return None
    rest = after[1:] if after[:1] == ["container"] else after
    return rest[1:] if rest[:1] in (["run"], ["create"]) else None


def _program(word: str, name: str, after: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """Return the engine that *word* starts, and the words for the engine's parser; None if *word* starts no engine."""
    if name in _SERVES and after[:1] == ["serve"]:
        return _SERVES[name], after[1:]
    if word == "-m" and after[:1] and after[0] in MODULES:
        return MODULES[after[0]], after[1:]
    if word == "-m" and after[:2] == ["vllm.entrypoints.cli.main", "serve"]:
        return "vllm", after[2:]
    return ("sglang", after) if name == "launch_server.py" and "sglang" in word else None


def _script(words: Sequence[str]) -> str | None:
    """Return the script in ``bash -c SCRIPT``, also with ``-lc`` and ``-euo pipefail -c``; None for any other command."""
    for index, word in enumerate(words[:-1]):
        if re.fullmatch(r"-[a-z]*c", word):
            return words[index + 1]
    return None


def _pod(words: Sequence[str], env: Mapping[str, str]) -> Start | None:
    """Return the engine start in ``kubectl run NAME --image=IMAGE -- WORDS``; None if there is none."""
    options, command = list(words), list[str]()
    if "--" in options:
        at = options.index("--")
        options, command = options[:at], options[at + 1 :]
    glued = next((each.partition("=")[2] for each in options if each.startswith("--image=")), "")
    image = glued or next((after for each, after in pairwise(options) if each == "--image"), "")
    first, rest = (command[:1], command[1:]) if "--command" in options else ([], command)
    return in_image(image, first, rest, env) if image else None


_ONE_WORD = re.compile(
    r"-[ditPq]+|--(detach|interactive|tty|rm|init|privileged|publish-all|read-only|no-healthcheck|oom-kill-disable|quiet)(=.*)?"
)
_LONG = {"-e": "--env", "-v": "--volume", "-m": "--memory", "-p": "--publish", "--net": "--network"}
_GLUED = re.compile(r"(-[evmp])(.+)", re.DOTALL)


def _docker(words: Sequence[str]) -> Start | None:
    """Return the engine start in ``docker run``, whose options precede the image; None if the container starts no engine."""
    rest, options = list(words), dict[str, list[str]]()
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        glued = None if name.startswith("--") or equals else _GLUED.fullmatch(name)
        if _ONE_WORD.fullmatch(name):
            continue
        if glued:
            name, value = glued.groups()
        elif name.startswith("-e") and not name.startswith("--") and len(name) > 2:  # -eNAME=VALUE
            name, value = "-e", f"{name[2:]}={value}"
        elif not equals:
            value = rest.pop(0) if rest else ""
        options.setdefault(_LONG.get(name, name), []).append(value)
    if not rest:
        return None
    env = {name: value for name, _, value in (each.partition("=") for each in options.get("--env", []))}
    found = in_image(rest[0], options.get("--entrypoint", []), rest[1:], env)
    if found is None:
        return None
    host = "host" in options.get("--ipc", [])
    return replace(
        found,
        shm_bytes=float("inf") if host else _last_size(options.get("--shm-size")),
        memory_bytes=_last_size(options.get("--memory")),
        gpus=_gpus((options.get("--gpus") or [""])[-1]),
        raw=shlex.join(["docker", "run", *words]),
    )


def in_image(image: str, entrypoint: Sequence[str], command: Sequence[str], env: Mapping[str, str]) -> Start | None:
    """
    Return the engine start of *command* in a container of *image*, with its own or the given *entrypoint*; None if no
    engine starts.
    """
    name = image.partition("@")[0]
    name = name[: name.rfind(":")] if ":" in name.rpartition("/")[2] else name
    first = tuple(entrypoint) or next((begin for pattern, begin in _IMAGES if pattern.search(name)), ())
    # A command that starts an engine by itself is read so, behind whatever it stands; a lint tells of the second start.
    found = find(command, env) or find([*first, *command], env)
    if found is None and not entrypoint and command and command[0].startswith("-") and "sglang" in name:
        found = Start("sglang", tuple(command), env=env)
    return found and replace(found, image=image, in_container=True, env={**env, **found.env})


def _last_size(values: Sequence[str] | None) -> float | None:
    return size_bytes(values[-1]) if values else None


def _gpus(text: str) -> int | None:
    """
    Return the number of devices in ``--gpus`` of ``docker run``; None for all devices, or if no number is stated.

    >>> _gpus("all"), _gpus("2"), _gpus('"device=0,1,2"'), _gpus("device=4")
    (None, 2, 3, 1)
    """
    bare = text.strip("\"'")
    if (count := count_of(bare)) is not None:
        return count
    if "device=" in bare:
        return len([each for each in bare.partition("device=")[2].split(",") if each])
    return None
