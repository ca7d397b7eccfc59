"""
Adapters: somebody else's tool does the asking, in an environment of its own; what it saw is judged like our own.

To add one, write a class like those beside this file and name it in `pytest_longctx.plugin.builtins`. A tool for loads gives back
every request it sent as an `Exchange`, so that rates and percentiles come from one place; what it cannot know, or counts
otherwise than `pytest_longctx.measures`, it names in `left_out`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pytest_longctx.backends import Backend
from pytest_longctx.backends.environments import Installable
from pytest_longctx.client.exchange import Ending, Exchange, Refusal
from pytest_longctx.client.load import Load
from pytest_longctx.client.server import Server
from pytest_longctx.deployments import models
from pytest_longctx.findings.ask import Ask
from pytest_longctx.observation import Observation

START_S = 600.0
"""What a tool may take beside its requests: to be imported, to make its prompts, to write its report."""


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What a tool is sent to do, and where it may leave things."""

    server: Server
    ask: Ask
    seed: int
    folder: Path
    tasks: Path | None = None
    """A folder of evaluation tasks beside those the tool knows."""

    @property
    def tokenizer(self) -> str:
        """Where a tool finds the model's tokenizer: where the engine found it, else under the name the server gives."""
        known = self.server.deployment.model
        return self.server.model if known.name == "unknown" else models.locate(known)

    @property
    def api_key(self) -> str | None:
        """What the server wants to hear from its clients."""
        return next(iter(self.server.secrets), None)

    def deadline_s(self, requests: int, prompt_tokens: int, output_tokens: int) -> float:
        """As long as *requests* take at the slowest rates of the deployment, so that the deadline never is the failure."""
        at_once = self.ask.concurrency or 1
        each_s = self.server.deployment.timeouts.request_s(prompt_tokens * at_once, output_tokens)
        return START_S + math.ceil(requests / at_once) * each_s


class Tool:
    """What every adapter knows."""

    name: ClassVar[str]
    package: ClassVar[str | None]
    """The import name that its interpreter must have."""
    distributions: tuple[str, ...] = ()
    install: tuple[str, ...] = ()
    uninstall: tuple[str, ...] = ()
    elsewhere: ClassVar[str] = ""
    pass_env: ClassVar[tuple[str, ...]] = ()
    """Variables it needs beside those that servers get."""
    needs: ClassVar[str] = ""
    """What to look for when it fails."""

    @property
    def called(self) -> str:
        """What it is called in messages."""
        return f"the tool {self.name!r}"

    def owner(self, _backend: Backend) -> Installable:
        """Whose environment it runs in."""
        return self

    def argv(self, errand: ToolRun, python: str) -> tuple[str, ...]:
        """The command line, run by the interpreter *python*."""
        raise NotImplementedError

    def env(self, errand: ToolRun) -> dict[str, str]:
        """What to set in its environment."""
        return {"OPENAI_API_KEY": errand.api_key} if errand.api_key else {}

    def deadline_s(self, errand: ToolRun) -> float:
        """When to give it up, from its start."""
        ask = errand.ask
        return errand.deadline_s(ask.requests or 1, ask.prompt_tokens or 1, ask.output_tokens)


class LoadTool(Tool):
    """A tool that sends many requests at once."""

    left_out: ClassVar[frozenset[str]] = frozenset()
    """Measures that it does not take, or defines otherwise."""

    def read(self, errand: ToolRun) -> Load:
        """What it left in the errand's folder. Raises `OSError`, `LookupError`, `TypeError` or `ValueError` otherwise."""
        raise NotImplementedError


class EvaluationTool(Tool):
    """A tool that asks questions and scores the answers."""

    def read(self, errand: ToolRun) -> Observation:
        """What it left in the errand's folder. Raises `OSError`, `LookupError`, `TypeError` or `ValueError` otherwise."""
        raise NotImplementedError


TIMES = frozenset(
    (
        *(f"{name}_{part}_s" for name in ("ttft", "tpot", "itl") for part in ("mean", "p50", "p90", "p99")),
        *("good_share", "goodput_per_s"),
    )
)


def blind_to_empty_tokens(errand: ToolRun) -> frozenset[str]:
    """
    What a tool that skips chunks without text cannot time where the weights are random.

    A token may have no text of its own. Of a trained model few do; random weights give them all the time, and a first token
    without text would be timed as the first with some.
    """
    return TIMES if errand.server.deployment.model.weights == "random" else frozenset()


def failed(asked: int, started_s: float, status: int | None, text: str) -> Exchange:
    """A request that was not served, as far as the tool tells: *status* is the HTTP status, None where none came."""
    ending: Ending = "disconnected" if status is None else "refused" if status < 500 else "server error"
    refusal = Refusal.read(status, text) if status is not None and status < 500 else None
    return Exchange(0, asked, started_s, ending, started_s, refusal=refusal, detail=text[:500])


def status_in(text: str) -> int | None:
    """
    The HTTP status that an error message names.

    >>> status_in("Client error '404 Not Found' for url ...")
    404
    """
    found = re.search(r"'([45]\d\d) ", text)
    return int(found[1]) if found else None


def seconds(values: Mapping[str, Any], name: str) -> float | None:
    """A figure of AIPerf's or GuideLLM's, in milliseconds there."""
    value = values.get(name)
    value = value.get("value") if isinstance(value, Mapping) else value
    return None if value is None else float(value) / 1000
