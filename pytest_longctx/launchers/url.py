"""
Attach to a running server: ``url:http://host:8000``.

If a proxy between client and server would reject a long prompt, that is detected before the prompt uses GPU-hours.
"""

import json
import os
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from pytest_longctx import toml
from pytest_longctx.client.request import open_client
from pytest_longctx.client.server import KEY_VARIABLE, Answer, Server, exclusive
from pytest_longctx.errors import LaunchError, UsageError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.readiness import await_ready
from pytest_longctx.processes import Candidate
from pytest_longctx.redaction import HIDDEN, checked_key, remember, shown
from pytest_longctx.units import duration

BYTES_PER_TOKEN = 8
"""Bytes of one token id in a request: six digits, a comma, a space."""
SILENCE_S = 65.0
"""Longest idle time that is tested. nginx and most load balancers close idle connections after 60 s by default."""
_WORTH_IT_S = 20.0
"""TTFT in seconds below which no proxy closes the connection."""
_GIVEN_UP = (408, 502, 504, 524)


def check_proxy(server: Server, prompt_tokens: int) -> None:
    """
    Check whether a prompt of *prompt_tokens* would pass the proxy, by its size and its idle time, without such a
    prefill.

    Raises `LaunchError`. On loopback only the size is tested.
    """
    tokens = min(prompt_tokens, server.max_model_len or prompt_tokens)
    with open_client(server, timeout_s=60) as http:
        _carries(http, server, tokens * BYTES_PER_TOKEN)
        silence_s = min(SILENCE_S, tokens / server.deployment.timeouts.slowest_prefill_tokens_per_s)
        if not server.local and silence_s > _WORTH_IT_S:
            _waits(http, server, silence_s)


def _carries(http: httpx.Client, server: Server, size: int) -> None:
    """
    Check that the proxy before a URL forwards a large body: send a request for a missing model, padded with blanks to
    *size* bytes.

    The request is as large as the longest prompt and needs no prefill.
    """
    head = json.dumps({"model": "pytest-longctx-no-such-model", "prompt": [server.deployment.model.ordinary_ids[0]]})
    body = head.encode()[:-1] + b', "max_tokens": 1}'
    padding = b" " * max(0, size - len(body))
    try:
        answer = http.post("/v1/completions", content=body + padding, headers={"Content-Type": "application/json"})
        said = Answer("", 413, answer.text).shown(server.secrets) if answer.status_code == 413 else None
    except httpx.TimeoutException:
        said = "no answer within a minute"
    except httpx.HTTPError as problem:
        said = shown(f"{type(problem).__name__}: {problem}", server.secrets)
    if said:
        raise LaunchError(
            f"{server.url} rejects a request of {size / 1e6:.1f} MB, the size of the longest prompt of this run\n"
            f"  found    {said}\n"
            "  try      a larger body limit of the proxy (nginx: client_max_body_size 0), the server's own address, or\n"
            "           tests with shorter prompts"
        )


def _waits(http: httpx.Client, server: Server, silence_s: float) -> None:
    """
    Check that the proxy before a URL waits for an answer: request a long answer without streaming, and stop after
    *silence_s* seconds.

    For a proxy this looks like a long prefill.
    """
    low, high = server.deployment.model.ordinary_ids
    prompt = [(low + high) // 2] * 8
    room = (server.max_model_len or 65_536) - len(prompt) - 8
    asked = {"model": server.model, "prompt": prompt, "max_tokens": room, "temperature": 0, **server.backend.body}
    began_s = time.monotonic()
    try:
        answer = http.post("/v1/completions", json=asked, timeout=httpx.Timeout(30, read=silence_s))
        said = f"HTTP {answer.status_code}" if answer.status_code in _GIVEN_UP else None
    except httpx.ReadTimeout:
        return
    except httpx.HTTPError as problem:
        said = shown(f"{type(problem).__name__}: {problem}", server.secrets)
    if said:
        raise LaunchError(
            f"{server.url} closed the connection after {duration(time.monotonic() - began_s)} without data; "
            "a first token may take longer\n"
            f"  found    {said}, before {duration(silence_s)} had passed\n"
            "  try      a longer idle limit of the proxy (nginx: proxy_read_timeout 1h), or the server's own address"
        )


_PASTED = ("/chat/completions", "/completions", "/responses", "/v1")
PATIENCE_S = 60.0
"""Timeout of a server that should already run."""


class UrlLauncher:
    """Launcher that attaches to a running server. It starts and stops nothing."""

    name = "url"
    boots = False
    needs_engine = False
    here = False
    contained = False
    leases_devices = False

    def __init__(self, base: str) -> None:
        try:
            parts = urlsplit(base)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
            bare = not parts.query and not parts.fragment and parts.netloc.isprintable()
            usable = usable and bare and not ("@" in parts.netloc and "@" in parts.path)
        except ValueError:
            usable = False
        if not usable:
            raise UsageError(
                f"--longctx-launcher=url:{_without_login(base)}: write url:http://HOST:PORT, without a query "
                f"(a key belongs in the environment variable {KEY_VARIABLE})"
            )
        # The base URL of OpenAI clients ends in /v1, and is often pasted, as is the whole URL of an example.
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        for end in _PASTED:
            plain = plain.removesuffix(end)
        self.base = plain
        login = parts.netloc.rpartition("@")[0]
        self.headers = {"Authorization": f"Basic {b64encode(unquote(login).encode()).decode()}"} if login else {}
        password = login.partition(":")[2] or login
        self.hidden = tuple(filter(None, {login, unquote(login), password, unquote(password)}))
        remember(self.hidden)
        self.local = parts.hostname in ("127.0.0.1", "localhost", "::1")

    @contextmanager
    def up(self, launch: Launch) -> Iterator[Server]:
        """Check that the server answers and matches the deployment, and yield the server."""
        key = checked_key(os.environ.get(KEY_VARIABLE), KEY_VARIABLE)
        hidden = (*self.hidden, *((key,) if key else ()))
        remember(hidden)
        headers = {"Authorization": f"Bearer {key}"} if key else self.headers
        # The probe changes the server's counters: not while another worker of this run measures it.
        with exclusive(self.base, launch.watch):
            candidate = AttachedServer(self.base, hidden)
            hoped = launch.server_at(self.base, self, headers=headers, local=self.local, hidden=hidden)
            patience_s = min(PATIENCE_S, launch.deployment.timeouts.boot_s)
            server = await_ready(candidate, launch, hoped, boot_s=patience_s)
            for line in _other_than_said(server):
                raise LaunchError(
                    f"{self.base} {line} (deployment {launch.deployment.name})\n"
                    "  try      omit --longctx-deployment, or name the deployment that this server runs"
                )
            if launch.longest_prompt is not None:
                check_proxy(server, launch.longest_prompt)
        yield server


def _without_login(base: str) -> str:
    """Return the URL *base* for a message. All text up to the last @ is hidden, because a login may contain any character."""
    scheme, slashes, rest = base.partition("//")
    plain = f"{scheme}{slashes}{HIDDEN}@{rest.rpartition('@')[2]}" if "@" in rest else base
    address, mark, _ = re.sub("[?#]", "\0", plain, count=1).partition("\0")
    return shown(address + (f"?{HIDDEN}" if mark else ""))


def _other_than_said(server: Server) -> Iterator[str]:
    """Yield the differences of the attached *server* from its deployment, as far as the server reports them."""
    said = server.deployment
    if None not in (said.max_model_len, server.max_model_len) and said.max_model_len != server.max_model_len:
        yield f"serves max_model_len {server.max_model_len:,}; the deployment {said.name} says {said.max_model_len:,}"
    if said.version and server.version and not toml.in_range(server.version, said.version):
        yield f"is version {server.version}; the deployment says {said.version}"
    loaded = server.words.get("loaded_model", "/")
    if said.model.id and not loaded.startswith(("/", ".")) and loaded not in (said.model.id, said.model.name):
        yield f"has loaded {loaded}; the deployment says {said.model.id}"


class AttachedServer(Candidate):
    """A server that this run did not start, and whose log and process are not available."""

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
