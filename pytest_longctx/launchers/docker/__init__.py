"""
Run the server in a container, which exists for one boot, is published on loopback, and is removed with the test run.

Containers are not reused: a container from an earlier start has that start's flags.
"""

import io
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from queue import Empty, Full, Queue
from typing import Any

from pytest_longctx.client.server import Server
from pytest_longctx.errors import LaunchError, UsageError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.cleanup_process import CleanupProcess
from pytest_longctx.launchers.docker import container_cleanup
from pytest_longctx.launchers.docker.container import Container, ContainerRun, plan
from pytest_longctx.launchers.readiness import await_ready
from pytest_longctx.launchers.time_limit import within
from pytest_longctx.processes.ports import reserved_port
from pytest_longctx.processes.progress import Progress
from pytest_longctx.redaction import remember, secret_values, shown
from pytest_longctx.units import duration

SOCKET = "/var/run/docker.sock"

REMEDIES = (
    (
        r"port is already allocated|address already in use",
        "another port in the deployment's [flags], or omit it to use a free port",
    ),
    (
        r"could not select device driver|nvidia-container|unresolvable CDI|CDI device",
        "the NVIDIA container toolkit on this host, and its CDI names in [docker] gpus",
    ),
    (
        r"gathering device information",
        "the accelerator's driver on this host: a device file that the deployment needs does not exist",
    ),
    (
        r"executable file not found|no such file or directory",
        "[docker] python and entrypoint: paths that exist in the image",
    ),
    (
        r"[Nn]o such image|pull access denied|manifest unknown",
        'docker pull, or pull = "missing" in the deployment\'s [docker]',
    ),
)
"""Errors of the container engine that prevent a container from running, with their remedies."""


class DockerLauncher:
    """Launcher that runs an engine in a container of its image, through the Docker SDK (extra ``[docker]``)."""

    name = "docker"
    boots = True
    needs_engine = False
    here = True
    contained = True
    leases_devices = False

    def __init__(self, what: str = "") -> None:
        self.socket = _socket(what or os.environ.get("DOCKER_HOST", SOCKET), typed=bool(what))

    @contextmanager
    def up(self, launch: Launch) -> Iterator[Server]:
        """Create a container, wait until the server is ready, yield it, and leave no container behind."""
        one, backend = launch.deployment, launch.backend
        if backend.host_flag is None:
            raise LaunchError(
                f"--backend={backend.name} has no option for the listening address (host_flag), which a container needs\n"
                "  try      --longctx-launcher=process, or a backend that sets host_flag"
            )
        with reserved_port(one.flags.get("port")) as port, self._running(launch, port) as server:
            yield server

    @contextmanager
    def _running(self, launch: Launch, port: int) -> Iterator[Server]:
        one, backend = launch.deployment, launch.backend
        run_id, key = secrets.token_hex(16), secrets.token_urlsafe(24)
        host = "127.0.0.1" if one.docker.network == "host" else "0.0.0.0"  # noqa: S104 - inside; outside it is loopback
        recipe = backend.recipe(one, str(launch.model), port, one.docker.python, host=host, key=key)
        labels = {container_cleanup.RUN_LABEL: run_id, container_cleanup.OWNER_LABEL: container_cleanup.owner()}
        run = plan(recipe, one, str(launch.model), labels, os.environ)
        log = launch.logs / f"{one.name}-{os.getpid()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        bears_key = {"Authorization": f"Bearer {key}"} if backend.key_flag or backend.key_variable else {}
        hoped = launch.server_at(f"http://127.0.0.1:{port}", self, headers=bears_key)
        engine, sdk = connect(self.socket)
        with closing(engine), CleanupProcess(container_cleanup.__file__, self.socket, run_id) as cleanup:
            with understood(self.socket):
                within(WHOLE_S, lambda: sweep(self.socket))
                image = _image(engine, sdk, run.image, launch)
                started = within(WHOLE_S, lambda: _started(engine, sdk, run, recipe.secrets))
            container = Container(started, run, log, recipe.secrets, self.socket)
            try:
                if (pid := container.pid()) is not None:
                    launch.started(pid)
                server = await_ready(container, launch, hoped, boot_s=recipe.boot_s)
                yield replace(
                    server, words={**server.words, "image": image}, ended=container.ended, hidden=container.secrets
                )
            finally:
                cleanup.finish(all_created=not container.lost)
                container.close()


def _socket(where: str, *, typed: bool) -> str:
    """
    Return the path of the Docker socket in *where*. Raises for a remote engine, which would publish ports on another
    machine's loopback.
    """
    path = where.removeprefix("unix://")
    if not path.startswith("/"):
        said = f"--longctx-launcher=docker:{where}" if typed else f"DOCKER_HOST={where}"
        kind = UsageError if typed else LaunchError
        raise kind(
            f"{shown(said, ())}: only an engine at a Unix socket of this machine is supported; write docker:unix:///PATH"
        )
    return path


def connect(path: str) -> tuple[Any, Any]:
    """
    Return a client of the Docker engine at the socket *path*, and the SDK. Raises `LaunchError` that names the missing
    part.
    """
    try:
        import docker
        import docker.errors
        import docker.types
    except ImportError:
        raise LaunchError(
            "the docker launcher needs the Docker SDK for Python\n  try      pip install 'pytest-longctx[docker]'"
        ) from None
    try:
        container_cleanup.call(path, "GET", "/version")
    except OSError as problem:
        said, remedy = _UNREACHED.get(type(problem), (str(problem), "docker info"))
        raise LaunchError(f"no Docker engine can be used at {path}: {said}\n  try      {remedy}") from None
    with understood(path):
        engine = within(WHOLE_S, lambda: docker.DockerClient(base_url=f"unix://{path}", timeout=120))
    engine.api.hooks["response"].append(_limit)
    engine.api.max_redirects = 0  # an engine at a socket has no other address, and a pull bears a login
    with suppress(Exception):  # a file of logins that cannot be read, which a pull will say
        known = docker.auth.load_config().auths.values()
        remember(str(each[name]) for each in known for name in ("password", "identitytoken", "auth") if each.get(name))
    return engine, docker


WHOLE_S = 180.0
"""Most seconds for a whole answer of the engine. A pull has a separate limit, ``pull_s`` in ``[docker]``."""
_PULL_LOOK_S = 0.5
"""Interval in which the time limit is checked while a pull sends no event."""
_EVENTS_AHEAD = 100
"""Events of a pull that are read before they are shown."""
_EVENT_BYTES = 2**20
"""Most bytes of an event of a pull."""
_MOST_SAID = 500


@contextmanager
def understood(path: str) -> Iterator[None]:
    """Convert an answer that no Docker engine gives, and the SDK's error about it, to `LaunchError`."""
    try:
        yield
    except (LaunchError, MemoryError, NotImplementedError):
        raise
    except Exception as problem:  # noqa: BLE001 - the SDK lets errors of several libraries through, and trusts every answer
        said = f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:_MOST_SAID]
        raise LaunchError(
            f"the server at {path} does not answer as a Docker engine does: {said}\n"
            "  try      docker info, and the engine's own log"
        ) from None


def _limit(response: Any, *_: Any, stream: bool = False, **__: Any) -> None:
    """Read an answer of the Docker engine up to `container_cleanup.MOST_BYTES`. The SDK would read the whole answer."""
    if stream and response.status_code == 200:
        if not getattr(response.raw, "chunked", False):
            response.close()
            raise ConnectionError("it answers a pull in one piece, and not event by event")
        response.raw = _Pieces(response.raw)
        return
    with closing(response.raw) as raw:
        content = raw.read(container_cleanup.MOST_BYTES + 1)
    if len(content) > container_cleanup.MOST_BYTES:
        raise ConnectionError(f"an answer has more than {container_cleanup.MOST_BYTES // 2**20} MiB")
    response.raw = io.BytesIO(content)


class _Pieces:
    """A streamed answer of the Docker engine whose pieces are limited in size. The SDK would read a piece of any size."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def read(self, size: int) -> Any:
        """Return at most *size* bytes of the stream. Raises ConnectionError for a piece that is too large."""
        if size > _EVENT_BYTES:
            raise ConnectionError(f"a piece of its answer has more than {_EVENT_BYTES // 2**20} MiB")
        return self._raw.read(size)


_UNREACHED: dict[type[OSError], tuple[str, str]] = {
    PermissionError: (
        "permission denied",
        "the group `docker` for this user, or a rootless engine: docker:unix:///PATH",
    ),
    FileNotFoundError: (
        "there is no such socket",
        "starting the engine, or docker:unix:///PATH if its socket is elsewhere",
    ),
    ConnectionRefusedError: ("no engine listens there", "starting the engine: systemctl start docker"),
}


def sweep(path: str) -> None:
    """Remove containers of ended runs: those with this package's label whose owner process has ended."""
    for container, labels in container_cleanup.labelled(path, container_cleanup.OWNER_LABEL):
        if container_cleanup.is_dead(labels[container_cleanup.OWNER_LABEL]):
            container_cleanup.remove(path, container, grace_s=0)


def _image(engine: Any, sdk: Any, name: str, launch: Launch) -> str:
    """
    Return the container image *name*, by digest if the image has one. Pull it only if the deployment allows this.
    Raises `LaunchError`.
    """
    for attempt in ("look", "look again"):
        try:
            image = within(WHOLE_S, lambda: engine.images.get(name))
        except sdk.errors.ImageNotFound:
            if launch.deployment.docker.pull == "never" or attempt == "look again":
                break
            _pull(engine, sdk, name, launch)
        else:
            return str((image.attrs.get("RepoDigests") or [image.id])[0])
    raise LaunchError(
        f"{launch.deployment.name}: the image {name} is not on this machine\n"
        f'  try      docker pull {name}, or pull = "missing" in the deployment\'s [docker]'
    )


def _pull(engine: Any, sdk: Any, name: str, launch: Launch) -> None:
    """Pull the image *name* within ``pull_s`` seconds. Raises `LaunchError`."""
    most_s = launch.deployment.docker.pull_s
    events: Queue[Any] = Queue(_EVENTS_AHEAD)
    over = threading.Event()
    # A registry may be silent for as long as it likes, and the SDK waits for it. The thread ends with the next event or with this
    # process, and the engine then ends the pull.
    threading.Thread(target=_read_pull, args=(engine, name, events, over), daemon=True).start()
    try:
        _await_pull(sdk, name, launch, events, most_s)
    finally:
        over.set()


def _await_pull(sdk: Any, name: str, launch: Launch, events: "Queue[Any]", most_s: float) -> None:
    """Show the *events* of a pull until the pull ends. Raises `LaunchError`, also after *most_s* seconds."""
    started_s = time.monotonic()
    doing = "waiting for the registry"
    while (elapsed_s := time.monotonic() - started_s) < most_s:
        launch.watch(Progress(f"pull {name}", doing, elapsed_s, most_s))
        try:
            event = events.get(timeout=min(_PULL_LOOK_S, most_s))
        except Empty:
            continue
        if event is None:
            return
        if isinstance(event, sdk.errors.APIError):
            raise LaunchError(f"{name} could not be pulled: {event.explanation}") from None
        if isinstance(event, Exception):
            raise event
        if "error" in event:
            raise LaunchError(f"{name} could not be pulled: {event['error']}")
        doing = " ".join(str(event.get(key, "")) for key in ("status", "id", "progress")).strip()[:_MOST_SAID]
    raise LaunchError(
        f"{name} was not pulled within {duration(most_s)}; the last that the engine said: {shown(doing)}\n"
        f"  try      docker pull {name} before the run, which keeps the layers that are complete; the registry and its mirror; "
        "or a longer pull_s in the deployment's [docker]"
    )


def _read_pull(engine: Any, name: str, events: "Queue[Any]", over: threading.Event) -> None:
    """
    Pull the image *name*, and put each event into *events*, then None or the exception that ended the pull, until
    *over* is set.
    """

    def put(what: Any) -> None:
        while not over.is_set():
            with suppress(Full):
                events.put(what, timeout=_PULL_LOOK_S)
                return

    # Without a tag the SDK would pull every tag.
    tagged = name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"
    try:
        for line in _lines(engine.api.pull(tagged, stream=True, decode=False)):
            put(json.loads(line))
            if over.is_set():
                return
        put(None)
    except Exception as problem:  # noqa: BLE001 - it is raised in the thread that waits
        put(problem)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the non-empty lines of a stream. Raises ConnectionError for a line over `_EVENT_BYTES`."""
    unread = b""
    for piece in pieces:
        *whole, unread = (unread + piece).split(b"\n")
        if len(unread) > _EVENT_BYTES:
            raise ConnectionError(f"an event of the pull has more than {_EVENT_BYTES // 2**20} MiB")
        yield from filter(bytes.strip, whole)
    if unread.strip():
        yield unread


def _started(engine: Any, sdk: Any, run: ContainerRun, hidden: tuple[str, ...]) -> Any:
    """
    Start a container for *run* and return the container. Raises `LaunchError` with the engine's message if the start
    fails.
    """
    try:
        container = engine.containers.create(**run.keywords(sdk.types))
        container.start()
    except (sdk.errors.APIError, OSError) as problem:
        said = str(getattr(problem, "explanation", None) or problem)
        remedy = next((what for words, what in REMEDIES if re.search(words, said)), "running that command by hand")
        rows = [f"Docker would not run {run.image}: {said}", f"  try      {remedy}", f"  again    {run.line()}"]
        raise LaunchError(shown("\n".join(rows), (*hidden, *secret_values(run.env, run.command)))) from None
    return container
