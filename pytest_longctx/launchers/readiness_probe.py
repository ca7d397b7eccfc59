"""Probe a server in a thread until it is ready: health, model list, version, one token."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from pytest_longctx.backends import Backend
from pytest_longctx.client import server_metrics
from pytest_longctx.client.exchange import Refusal
from pytest_longctx.client.http_client import PageClient
from pytest_longctx.client.json_values import count_of, json_of
from pytest_longctx.client.request import open_client
from pytest_longctx.client.server import Answer, Server, Unaskable, unaskable
from pytest_longctx.errors import LaunchError
from pytest_longctx.processes.shortages import own_error
from pytest_longctx.redaction import cleaned, shown

T = TypeVar("T")

_PROMPT_TOKENS = 8
_LONGEST_VERSION: Final = 100
_PAUSE_S = 0.2
_QUICK_S = 5.0
"""Timeout of requests that need no computation: health, the model list."""
PERSISTS_S = 10.0
"""Seconds of the same error after which a server counts as failed. Engines return 500 and 503 briefly at warm-up."""
_PERSISTS_TIMES = 3
_VARIES = re.compile(r"[0-9a-fA-F-]{8,}|\d+")
"""Ids and times in the text of an error, which differ each time."""


@dataclass(slots=True)
class _Failing:
    """Detector of a server that returns the same error again and again."""

    text: str = ""
    since_s: float = 0.0
    times: int = 0

    def persists(self, status: int, text: str, now_s: float) -> bool:
        """
        Store one answer to a readiness probe, and return whether the same error has persisted. Status 503 means not
        ready yet.
        """
        if status < 500 or status == 503:
            self.text, self.times = "", 0
            return False
        plain = f"{status} {_VARIES.sub('#', text)}"
        if plain != self.text:
            self.text, self.since_s, self.times = plain, now_s, 0
        self.times += 1
        return self.times >= _PERSISTS_TIMES and now_s - self.since_s >= PERSISTS_S


class ReadinessProbe:
    """
    Probe of *server*, step by step, until the server generates a token or refuses to.

    *answered*: the server with its own figures. *refused*: the text of its refusal, or of the error that it always
    returns. *unaskable*: the reason why requests do not reach an engine.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answered: Server | None = None
        self.refused: Refusal | None = None
        self.unaskable: Unaskable | None = None
        self.trouble: LaunchError | None = None
        """The resource that this process lacks for a request, which is no evidence about the server; empty if none."""
        self.unreachable = ""
        """Why the address cannot be reached, if the last connection was refused at once."""
        self.step = "health"
        self.last = ""
        self.connected = False
        """Whether any response has arrived."""
        self.figures: dict[str, float] = {}
        self.words: dict[str, str] = {}
        self.loaded: dict[str, str] = {}
        """The model behind the served name, if the list names it."""
        self.unread: list[str] = []
        """Optional pages that could not be read, with the reason for each."""
        self._failing = _Failing()
        self._stop = threading.Event()
        self._http: PageClient | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._http is not None:
            self._http.abort()  # an answer without end would keep the thread busy

    def gauges(self) -> dict[str, float | None]:
        """Return the running and waiting requests during the readiness probe; None if the server does not report them."""
        with open_client(self.server, timeout_s=_QUICK_S) as http:
            seen = server_metrics.glance(http, self.server.backend.metrics)
        return {"running": seen.running, "waiting": seen.waiting}

    def _run(self) -> None:
        with open_client(self.server, timeout_s=_QUICK_S) as http:
            self._http = http
            while not self._stop.is_set():
                try:
                    if self._once(http):
                        return
                except Exception as problem:  # noqa: BLE001 - any answer that cannot be read means: not ready yet
                    self.trouble = own_error(problem, self.server.url)
                    self.last = shown(str(problem), self.server.secrets) or type(problem).__name__
                    self.unreachable = self.last if isinstance(problem, httpx.ConnectError) else ""
                self._stop.wait(_PAUSE_S)

    def _optional(self, path: str | None, page: Callable[[str], T | None]) -> T | None:
        """
        Return the content of an optional page. If the page cannot be read, record a note and return None; the wait
        continues.
        """
        try:
            return None if path is None else page(path)
        except (httpx.HTTPError, ValueError) as problem:
            self.unread.append(f"{path}: {problem}")
            return None

    def _once(self, http: httpx.Client) -> bool:
        """Send one round of requests, and return whether no further round is needed."""
        self.step = "health"
        # While our server boots, another process may still hold its port, or its routes may not exist yet.
        if not self._passes(http.get(self.server.backend.health), settled=self._attached):
            return self.unaskable is not None
        self.step = "the model list"
        listed = http.get("/v1/models")
        server = self._matched(listed) if self._passes(listed) else None
        if server is None:
            return self.unaskable is not None
        self.step = "one token"
        answer = http.post("/v1/completions", json=self._one_token(server), timeout=None)
        if self._strange(answer, settled=True) or self._turned_down(answer, server):
            return True
        if self._green(answer):
            self._look_around(http, server)
        return self.answered is not None

    def _passes(self, answer: httpx.Response, *, settled: bool = True) -> bool:
        return not self._strange(answer, settled=settled) and self._green(answer)

    @property
    def _attached(self) -> bool:
        """Whether the probed server was started before this run and should be ready."""
        return self.server.attached

    def _strange(self, answer: httpx.Response, *, settled: bool) -> bool:
        """
        Return whether *answer* shows that requests do not reach an engine. *settled*: a missing endpoint will stay
        missing.
        """
        server, request = self.server, answer.request
        said = Answer(
            f"{request.method} {request.url.path}",
            answer.status_code,
            answer.text,
            answer.headers.get("content-type", ""),
            answer.headers.get("location", ""),
        )
        if not settled and answer.status_code not in (401, 403):
            return False
        keyed = "Authorization" in server.headers
        direct = server.local and not self._attached  # a tunnel or a proxy may listen on loopback too
        found = unaskable(said, local=direct, attached=self._attached, keyed=keyed, secrets=server.secrets)
        self._cannot(found)
        return found is not None

    def _cannot(self, found: Unaskable | None) -> None:
        self.unaskable = found
        self.connected = self.connected or found is not None

    def _turned_down(self, answer: httpx.Response, server: Server) -> bool:
        """Return whether *answer* ends the wait: a refusal of a request that every server can serve, or no completion."""
        status, asked = answer.status_code, "POST /v1/completions with eight token ids, for one token"
        answered = Answer(asked, status, answer.text).shown(server.secrets)
        if 400 <= status < 500 and self._attached:
            remedy = "a server whose /v1/completions takes token ids, as vLLM's and SGLang's do"
            self._cannot(Unaskable(asked, answered, "it refuses the simplest request, a prompt of token ids", remedy))
        elif 400 <= status < 500 or self._failing.persists(status, answer.text, time.monotonic()):
            self.refused = Refusal.read(status, answer.text, server.secrets)
        elif status == 200 and not _is_completion(answer):
            remedy = "the base URL of an OpenAI-compatible server, up to and without /v1"
            self._cannot(Unaskable(asked, answered, "the answer is not a completion: it has no choices", remedy))
        return self.refused is not None or self.unaskable is not None

    def _green(self, answer: httpx.Response) -> bool:
        self.connected = True
        self.last = Answer("", answer.status_code, answer.text).shown(self.server.secrets)
        return answer.status_code == 200

    def _matched(self, listed: httpx.Response) -> Server | None:
        """
        Return the server with a model from its list: the named model, or the first if none is named. None if the list
        lacks the model.
        """
        models = _models(listed)
        if models is None:
            self._cannot(_no_list(listed, self.server)) if self._attached else None
            return None
        anyone = self.server.deployment.model.name == "unknown"
        name = next(iter(models), None) if anyone else self.server.model
        if name is None or name not in models:
            names = shown(str(sorted(models)), self.server.secrets)[:400]
            self.last = f"model {self.server.model!r} is not among {names}"
            if models and self._attached:
                remedy = "omit --longctx-deployment, or name the deployment that this server runs"
                answered = Answer("", listed.status_code, listed.text).shown(self.server.secrets)
                self._cannot(Unaskable("GET /v1/models", answered, self.last, remedy))
            return None
        root = models[name].get("root")
        self.loaded = {"loaded_model": root} if isinstance(root, str) and root != name else {}
        return replace(self.server, model=name, max_model_len=count_of(self.server.backend.limit_in(models[name])))

    def _one_token(self, server: Server) -> dict[str, Any]:
        low, high = server.deployment.model.ordinary_ids
        # Never the first block of a prompt under test: eight tokens fill none. A first prompt of one or two ends the CPU build
        # of vLLM 0.32 with an illegal instruction where the processor has AMX.
        return {
            "model": server.model,
            "prompt": [(low + high) // 2] * _PROMPT_TOKENS,
            "max_tokens": 1,
            "temperature": 0,
        }

    def _look_around(self, http: httpx.Client, server: Server) -> None:
        """Request the version and metrics of the probed server, which are optional."""
        backend = server.backend
        version = self._optional(backend.version_path, lambda path: _version(backend, http.get(path)))
        layout = self._optional(server_metrics.PATH, lambda _: server_metrics.cache_layout(http, backend.metrics)) or {}
        self.words = cleaned({**layout, **self.loaded}, self.server.secrets)
        if self.unread:
            self.words["unreadable_pages"] = shown("; ".join(self.unread), self.server.secrets)
        if server.max_model_len is not None:
            self.figures["max_model_len"] = float(server.max_model_len)
        self.answered = replace(server, version=version)


def _version(backend: Backend, answer: httpx.Response) -> str | None:
    """
    Return the engine's version from the server's page; None if the page has none. Raises `ValueError` if the page is
    not JSON.
    """
    found = json_of(answer.content) if answer.status_code == 200 else None
    version = backend.version_in(found) if isinstance(found, dict) else None
    return None if version is None else shown(version)[:_LONGEST_VERSION]


def _json(answer: httpx.Response) -> Any:
    try:
        return json_of(answer.content)
    except ValueError:
        return None


def _models(listed: httpx.Response) -> dict[str, dict[str, Any]] | None:
    """Return the rows of the model list in the response *listed*, by name; None if the response is not a model list."""
    listing = _json(listed)
    rows = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        return None
    return {row["id"]: row for row in rows}


def _no_list(listed: httpx.Response, server: Server) -> Unaskable:
    answered = Answer("", listed.status_code, listed.text).shown(server.secrets)
    remedy = "the base URL of an OpenAI-compatible server, up to and without /v1"
    return Unaskable("GET /v1/models", answered, "the answer is not a list of models", remedy)


def _is_completion(answer: httpx.Response) -> bool:
    made = _json(answer)
    return isinstance(made, dict) and isinstance(made.get("choices"), list) and bool(made["choices"])
