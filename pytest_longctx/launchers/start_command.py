"""Parse the start command of a server from a deployment, a ``docker run`` line, or a Pod."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pytest_longctx.backends.flags import arguments
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.errors import TableError

_BARE = re.compile(r"-[ditP]+|--(detach|interactive|tty|rm|init|privileged|publish-all|read-only|no-healthcheck)(=.*)?")
"""Options of ``docker run`` that take no separate value."""
_FLAG = re.compile(r"-\D")
"""A word that is a flag and not a negative number."""
_BREAK = frozenset({";", "&&", "||", "|"})
_LOOPBACK = ("127.", "localhost:", "[::1]:")


@dataclass(frozen=True, slots=True)
class StartCommand:
    """The start command of a server, as parsed from its text."""

    engine: str | None = None
    """The engine that *command* starts."""
    version: str | None = None
    """The engine versions of the start; None for any."""
    image: str | None = None
    entrypoint: tuple[str, ...] = ()
    """The entrypoint that replaces the image's own; empty if none does."""
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[tuple[str, bool], ...] = ()
    """Mounted folders inside the container, each with whether it is read-only."""
    in_container: bool = False
    open_to_all: bool = False
    """Whether the server's port is published on every interface of the host."""
    has_shm: bool = False
    """Whether the container's shared memory is larger than the default."""
    asks_a_person: bool = False
    workers: int | None = None
    """Number of processes on one host that serve together, if known; None: as the flags of *command* say."""
    may_reuse: bool = False
    """Whether the command may restart an existing container."""
    patience_s: float | None = None
    """Seconds without an answer after which Kubernetes kills the server; None without such a limit."""
    boot_s: float | None = None
    """The duration of a recorded boot, in seconds."""
    context_tokens: int | None = None
    """The longest request in tokens, if no flag of *command* gives it."""

    @property
    def flags(self) -> dict[str, str]:
        """
        Flags of *command* with dashes and values, in the order of their last use. A flag without value has an empty
        value.
        """
        found: dict[str, str] = {}
        for word, after in pairwise((*self.command, "")):
            if _FLAG.match(word):
                name, equals, value = word.partition("=")
                found.pop(name, None)
                found[name] = value if equals else "" if _FLAG.match(after) else after
        return found

    def flag(self, *names: str) -> str | None:
        """
        Return the last value of the flags *names* in a start command: empty if a flag has no value, None if all are
        missing.
        """
        spelt = ((name.replace("_", "-"), value) for name, value in reversed(self.flags.items()))
        return next((value for name, value in spelt if name in names), None)

    @property
    def model(self) -> str | None:
        """The model that the engine of a start command loads; None if unknown."""
        given = self.flag("--model", "--model-path")
        words = (*self.entrypoint, *self.command)
        if given is None and "serve" in words[:-1] and not words[words.index("serve") + 1].startswith("-"):
            return words[words.index("serve") + 1]
        return given


def of_deployment(one: Deployment, engine: str | None) -> StartCommand:
    """Return the start command of *one* with the docker launcher."""
    made = one.docker
    model = ("--model", one.model.path) if one.model.path else ("--model", one.model.id) if one.model.id else ()
    words = (*made.entrypoint, made.python, *model, *arguments(one, engine or ""))
    replaced = len(made.entrypoint) or 1
    return StartCommand(
        engine=engine,
        version=one.version,
        image=one.image,
        entrypoint=words[:replaced],
        command=words[replaced:],
        env=one.env,
        mounts=tuple(_mounted(mount) for mount in made.mounts),
        in_container=one.image is not None,
        has_shm=made.shm_gib >= 1,
        patience_s=one.timeouts.boot_s,
        boot_s=one.timeouts.usual_boot_s,
        context_tokens=one.max_model_len,
    )


def of_command(text: str, boot_s: float | None = None) -> StartCommand:
    """Return the start in the ``docker run`` of *text*, a line or a small script. Raises `TableError` if *text* has none."""
    try:
        commands = list(_commands(text))
    except ValueError as problem:
        raise TableError(f"ask.command: a shell cannot split it into words: {problem}") from None
    run = next((words[2:] for words in commands if words[:2] == ["docker", "run"]), None)
    if run is None:
        raise TableError(
            "ask.command: there is no `docker run` command; write `docker run [OPTIONS] IMAGE [COMMAND]`, or use "
            "ask.pod for a Pod"
        )
    options: dict[str, list[str]] = {}
    while run and run[0].startswith("-"):
        name, equals, value = run.pop(0).partition("=")
        if not (equals or _BARE.fullmatch(name)):
            value = run.pop(0) if run else ""
        options.setdefault(_LONG.get(name, name), []).append(value)
    published = [each for each in options.get("--publish", []) if not each.startswith(_LOOPBACK)]
    at_home = f"{StartCommand(command=tuple(run)).flag('--host')}:".startswith(_LOOPBACK)
    return StartCommand(
        image=run[0] if run else None,
        entrypoint=tuple(options.get("--entrypoint", ())),
        command=tuple(run[1:]),
        env=dict(_pair(each) for each in options.get("--env", [])),
        mounts=(
            *(_mounted(each) for each in options.get("--volume", [])),
            *(_long_mounted(each) for each in options.get("--mount", [])),
        ),
        in_container=True,
        open_to_all=bool(published)
        or _publishes_all(options)
        or ("host" in options.get("--network", []) and not at_home),
        has_shm=bool(options.get("--shm-size")) or "host" in options.get("--ipc", []),
        asks_a_person=any(re.fullmatch(r"-[a-z]*t[a-z]*|--tty", name) for name in options) or _reads(commands),
        may_reuse=any(words[:2] == ["docker", "start"] for words in commands),
        boot_s=boot_s,
    )


def _publishes_all(options: Mapping[str, list[str]]) -> bool:
    return any(re.fullmatch(r"-[a-z]*P[a-z]*|--publish-all", name) for name in options)


_LONG = {"-p": "--publish", "-e": "--env", "-v": "--volume", "--net": "--network"}


def of_pod(text: str, boot_s: float | None = None) -> StartCommand:
    """
    Return the start in the first container of the Pod in *text*, which is JSON. Raises `TableError` if *text* is no
    Pod.
    """
    try:
        return _of_pod(json.loads(text)["spec"], boot_s)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as problem:
        raise TableError(f"ask.pod: must be a Pod in JSON: {problem!r}"[:_MOST_SAID]) from None


_MOST_SAID = 300


def _of_pod(spec: Mapping[str, Any], boot_s: float | None) -> StartCommand:
    box: Mapping[str, Any] = spec["containers"][0]
    mounts = [(str(each["mountPath"]), bool(each.get("readOnly"))) for each in box.get("volumeMounts", [])]
    ports = box.get("ports", [])
    live, first = box.get("livenessProbe"), box.get("startupProbe")
    return StartCommand(
        image=None if box.get("image") is None else _text(box["image"]),
        entrypoint=tuple(map(_text, box.get("command") or ())),
        command=tuple(map(_text, box.get("args") or ())),
        env={_text(each["name"]): str(each.get("value", "")) for each in box.get("env", [])},
        mounts=tuple(mounts),
        in_container=True,
        open_to_all=bool(spec.get("hostNetwork")) or any("hostPort" in each for each in ports),
        has_shm=bool(spec.get("hostIPC")) or any(path == "/dev/shm" for path, _ in mounts),  # noqa: S108
        patience_s=None if live is None and first is None else _patience_s(first or live or {}),
        boot_s=boot_s,
    )


def _text(value: Any) -> str:
    """Return a word of a Pod as text, because YAML converts some words to numbers. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"{value!r:.60} must be a string")
    return str(value)


def _patience_s(probe: Mapping[str, Any]) -> float:
    """
    Return the seconds until Kubernetes restarts the container, by the rules and defaults of its probes: a delay, then
    consecutive failures.
    """
    return float(
        probe.get("initialDelaySeconds", 0) + probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10)
    )


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the simple commands of a script, without expansion by the shell."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in shlex.split(line, comments=True):
            if word in _BREAK:
                yield words
                words = []
            else:
                words.append(word)
        yield words


def _reads(commands: Sequence[list[str]]) -> bool:
    return any(words[:1] == ["read"] for words in commands)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _mounted(text: str) -> tuple[str, bool]:
    """
    Return the path inside the container of a ``docker run`` mount, ``HOST:INSIDE`` or ``HOST:INSIDE:ro``, and whether
    it is read-only.
    """
    _, inside, how = (*text.split(":"), "", "")[:3]
    return inside, "ro" in how.split(",")


def _long_mounted(text: str) -> tuple[str, bool]:
    """Return the path inside and whether it is read-only, for a mount ``type=bind,source=HOST,target=INSIDE``."""
    keys = dict(_pair(each) for each in text.split(","))
    inside = next((keys[name] for name in ("target", "destination", "dst") if name in keys), "")
    return inside, any(keys.get(name, "false") in ("", "true", "1") for name in ("readonly", "ro"))
