"""Attach to a server that already answers somewhere: ``url:http://host:8000``."""

import os
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pytest_longctx.errors import LaunchError, UsageError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.ready import Candidate, await_ready
from pytest_longctx.mask import masked
from pytest_longctx.server import Server

KEY_VARIABLE = "LONGCTX_API_KEY"
"""Where the API key of an attached server is read from; a key on a command line would show in every process list."""

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
        candidate = Elsewhere(self.base, (key,) if key else ())
        hoped = launch.server_at(self.base, self.name, headers=headers, local=self.local)
        patience_s = min(PATIENCE_S, launch.deployment.timeouts.boot_s)
        server = await_ready(candidate, launch, hoped, boot_s=patience_s)
        wanted, found = launch.deployment.max_model_len, server.max_model_len
        if wanted is not None and found is not None and wanted != found:
            raise LaunchError(
                f"{self.base} serves max_model_len {found:,}; the deployment {launch.deployment.name} says {wanted:,}\n"
                "  try      leave --longctx-deployment out, or name the deployment that this server runs"
            )
        yield server


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
