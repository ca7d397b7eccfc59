"""Knock at a server until it answers: health, model list, version, one token; in a thread, so that a wait can be ended."""

import threading
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import httpx

from pytest_longctx import telemetry
from pytest_longctx.client import open_client
from pytest_longctx.exchange import Refusal
from pytest_longctx.server import Server

_PROMPT_TOKENS = 8
_PAUSE_S = 0.2
_QUICK_S = 5.0
"""For an answer that takes no work: health, the model list."""


class Knock:
    """
    Asks *server* step by step, until it has generated a token or refused to.

    *answered* is the server with what it told of itself; *refused* what it said when it turned the token down.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answered: Server | None = None
        self.refused: Refusal | None = None
        self.step = "health"
        self.last = ""
        self.connected = False
        """Whether anybody has answered anything."""
        self.figures: dict[str, float] = {}
        self.words: dict[str, str] = {}
        self.loaded: dict[str, str] = {}
        """What the served name stands for, where the list says so."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def gauges(self) -> dict[str, float | None]:
        """How many requests run and wait, where the server says so."""
        with open_client(self.server, timeout_s=_QUICK_S) as http:
            seen = telemetry.glance(http, self.server.backend.metrics)
        return {"running": seen.running, "waiting": seen.waiting}

    def _run(self) -> None:
        with open_client(self.server, timeout_s=_QUICK_S) as http:
            while not self._stop.is_set():
                try:
                    if self._once(http):
                        return
                except Exception as problem:  # noqa: BLE001 - whatever a stranger answers, it is not ready yet
                    self.last = str(problem) or type(problem).__name__
                self._stop.wait(_PAUSE_S)

    def _once(self, http: httpx.Client) -> bool:
        """One round; True when there is no need for another."""
        backend = self.server.backend
        self.step = "health"
        if not self._green(http.get(backend.health)):
            return False
        self.step = "the model list"
        listed = http.get("/v1/models")
        if not self._green(listed):
            return False
        server = self._matched(listed.json())
        if server is None:
            return False
        self.step = "one token"
        answer = http.post("/v1/completions", json=self._one_token(server), timeout=None)
        if 400 <= answer.status_code < 500:
            self.refused = Refusal.read(answer.status_code, answer.text, server.secrets)
            return True
        if not self._green(answer):
            return False
        self._look_around(http, server)
        return True

    def _green(self, answer: httpx.Response) -> bool:
        self.connected = True
        self.last = f"HTTP {answer.status_code} {answer.text[:200]}".strip()
        return answer.status_code == 200

    def _matched(self, listing: dict[str, Any]) -> Server | None:
        """The server with the model it really lists: ours by name, or its first where none was named."""
        models = {row["id"]: row for row in listing.get("data", [])}
        anyone = self.server.deployment.model.name == "unknown"
        name = next(iter(models), None) if anyone else self.server.model
        if name is None or name not in models:
            self.last = f"model {self.server.model!r} is not among {sorted(models)}"
            return None
        root = models[name].get("root")
        self.loaded = {"loaded_model": root} if isinstance(root, str) and root != name else {}
        return replace(self.server, model=name, max_model_len=self.server.backend.limit_in(models[name]))

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
        """What else a server tells of itself; none of it is needed to go on."""
        backend = server.backend
        version = None
        if backend.version_path is not None:
            answer = http.get(backend.version_path)
            version = backend.version_in(answer.json()) if answer.status_code == 200 else None
        self.words = {**telemetry.cache_layout(http, backend.metrics), **self.loaded}
        if server.max_model_len is not None:
            self.figures["max_model_len"] = float(server.max_model_len)
        self.answered = replace(server, version=version)
