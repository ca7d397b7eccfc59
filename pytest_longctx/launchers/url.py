"""Attach to a server that already answers somewhere: ``url:http://host:8000``."""

import os
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pytest_longctx import toml
from pytest_longctx.client.server import KEY_VARIABLE, Server, turn
from pytest_longctx.errors import LaunchError, UsageError
from pytest_longctx.launchers import Launch, proxy
from pytest_longctx.launchers.readiness import Candidate, await_ready
from pytest_longctx.redaction import masked

PATIENCE_S = 60.0
"""How long a server that is said to answer may take to do so."""


class UrlLauncher:
    """Starts nothing and stops nothing."""

    name = "url"
    boots = False
    needs_engine = False
    here = False

    def __init__(self, base: str) -> None:
        try:
            parts = urlsplit(base)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:
            usable = False
        if not usable:
            raise UsageError(f"--longctx-launcher=url:{masked(base, ())}: write url:http://HOST:PORT")
        # The OpenAI clients' base URL ends in /v1; people paste it.
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self.base = plain.rstrip("/").removesuffix("/v1")
        login = parts.netloc.rpartition("@")[0]
        self.headers = {"Authorization": f"Basic {b64encode(unquote(login).encode()).decode()}"} if login else {}
        self.local = parts.hostname in ("127.0.0.1", "localhost", "::1")

    @contextmanager
    def up(self, launch: Launch) -> Iterator[Server]:
        """Check that it answers and is what the deployment says, and yield it."""
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else self.headers
        # Asking moves the server's counters too: never while another worker of this run measures it.
        with turn(self.base):
            candidate = Elsewhere(self.base, (key,) if key else ())
            hoped = launch.server_at(self.base, self.name, headers=headers, local=self.local)
            patience_s = min(PATIENCE_S, launch.deployment.timeouts.boot_s)
            server = await_ready(candidate, launch, hoped, boot_s=patience_s)
            for line in _other_than_said(server):
                raise LaunchError(
                    f"{self.base} {line} (deployment {launch.deployment.name})\n"
                    "  try      leave --longctx-deployment out, or name the deployment that this server runs"
                )
            if launch.longest_prompt is not None:
                proxy.check(server, launch.longest_prompt)
        yield server


def _other_than_said(server: Server) -> Iterator[str]:
    """What *server* tells of itself that its deployment has otherwise; what it does not tell is not held against it."""
    said = server.deployment
    if None not in (said.max_model_len, server.max_model_len) and said.max_model_len != server.max_model_len:
        yield f"serves max_model_len {server.max_model_len:,}; the deployment {said.name} says {said.max_model_len:,}"
    if said.version and server.version and not toml.in_range(server.version, said.version):
        yield f"is version {server.version}; the deployment says {said.version}"
    loaded = server.words.get("loaded_model", "/")
    if said.model.id and not loaded.startswith(("/", ".")) and loaded not in (said.model.id, said.model.name):
        yield f"has loaded {loaded}; the deployment says {said.model.id}"


class Elsewhere(Candidate):
    """A server of which nothing but its answers can be seen."""

    ours = False

    def __init__(self, base: str, secrets: tuple[str, ...]) -> None:
        self.started_s = time.monotonic()
        self.log: Path | None = None
        self.secrets = secrets
        self.again = f"curl {base}/v1/models"

    def exit_code(self) -> int | None:
        return None

    def new_lines(self) -> Iterator[str]:
        return iter(())
