"""
Run the server in a container that exists for one boot, is published on loopback, and is removed with the test run.

Containers are not reused: a container from an earlier start has that start's flags.
"""

import io
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from pytest_longctx.client.server import Server
from pytest_longctx.errors import LaunchError, UsageError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.cleanup_process import CleanupProcess
from pytest_longctx.launchers.docker import container_cleanup
from pytest_longctx.launchers.docker.container import Container, ContainerRun, plan
from pytest_longctx.launchers.readiness import await_ready
from pytest_longctx.launchers.time_limit import within
from pytest_longctx.processes import free_port
from pytest_longctx.processes.progress import Progress
from pytest_longctx.redaction import remember, secret_values, shown

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
    """Runs an engine in a container of its image, through the Docker SDK (extra ``[docker]``)."""

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
        run_id, key = secrets.token_hex(16), secrets.token_urlsafe(24)
        port = free_port(one.flags.get("port"))
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
    """Return the path in *where*. A remote engine is rejected: it would publish ports on another machine's loopback."""
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
    Connect to the engine at the socket *path*, and return it with the SDK. Raises `LaunchError` that names what is
    missing.
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
"""Most seconds for a whole answer of the engine. A pull has no such limit."""
_MOST_SAID = 500


@contextmanager
def understood(path: str) -> Iterator[None]:
    """Raise `LaunchError` for an answer that no Docker engine gives, and for the SDK's error about it."""
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
    """Read an answer up to `container_cleanup.MOST_BYTES`. The SDK would read it to its end."""
    if stream:
        return
    with closing(response.raw) as raw:
        content = raw.read(container_cleanup.MOST_BYTES + 1)
    if len(content) > container_cleanup.MOST_BYTES:
        raise ConnectionError(f"an answer has more than {container_cleanup.MOST_BYTES // 2**20} MiB")
    response.raw = io.BytesIO(content)


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
    Return the container image *name*, by digest if it has one. It is pulled only if the deployment allows it. Raises
    `LaunchError`.
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
    started_s, boot_s = time.monotonic(), launch.deployment.timeouts.boot_s
    # Without a tag the SDK would pull every tag.
    tagged = name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"
    try:
        for event in engine.api.pull(tagged, stream=True, decode=True):
            if "error" in event:
                raise LaunchError(f"{name} could not be pulled: {event['error']}")
            launch.watch(Progress(f"pull {name}", event.get("status", ""), time.monotonic() - started_s, boot_s))
    except sdk.errors.APIError as problem:
        raise LaunchError(f"{name} could not be pulled: {problem.explanation}") from None


def _started(engine: Any, sdk: Any, run: ContainerRun, hidden: tuple[str, ...]) -> Any:
    """Start a container for *run* and return it. Raises `LaunchError` with the engine's message if it cannot start."""
    try:
        container = engine.containers.create(**run.keywords(sdk.types))
        container.start()
    except (sdk.errors.APIError, OSError) as problem:
        said = str(getattr(problem, "explanation", None) or problem)
        remedy = next((what for words, what in REMEDIES if re.search(words, said)), "running that command by hand")
        rows = [f"Docker would not run {run.image}: {said}", f"  try      {remedy}", f"  again    {run.line()}"]
        raise LaunchError(shown("\n".join(rows), (*hidden, *secret_values(run.env, run.command)))) from None
    return container
