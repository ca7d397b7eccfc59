"""
Adapters for external tools that send requests from their own environments. Findings judge the results of these tools
too.

To add one, write a class like those in this package and name it in `pytest_longctx.plugin.builtins`. A load tool
returns each request as an `Exchange`, so that all rates and percentiles are computed in one place. `left_out` names the
metrics that the tool cannot measure, or that it defines differently from `pytest_longctx.measures`.
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
"""Additional time for imports, making prompts and writing the report."""


@dataclass(frozen=True, slots=True)
class ToolRun:
    """Input of one tool run, and its output folder."""

    server: Server
    ask: Ask
    seed: int
    folder: Path
    tasks: Path | None = None
    """A folder with evaluation tasks, in addition to the tool's own tasks."""

    @property
    def tokenizer(self) -> str:
        """Location of the model's tokenizer: the engine's location if known, otherwise the model name that the server reports."""
        known = self.server.deployment.model
        return self.server.model if known.name == "unknown" else models.locate(known)

    @property
    def api_key(self) -> str | None:
        """The API key that the server requires; None if it requires none."""
        return next(iter(self.server.secrets), None)

    def deadline_s(self, requests: int, prompt_tokens: int, output_tokens: int) -> float:
        """
        Return the deadline in seconds for *requests* at the deployment's slowest rates, so that a slow server alone
        does not exceed the deadline.
        """
        at_once = self.ask.concurrency or 1
        each_s = self.server.deployment.timeouts.request_s(prompt_tokens * at_once, output_tokens)
        return START_S + math.ceil(requests / at_once) * each_s


class Tool:
    """Base class of the adapters for load and evaluation tools."""

    name: ClassVar[str]
    package: ClassVar[str | None]
    """Import name of the tool, to find an interpreter that has it."""
    distributions: tuple[str, ...] = ()
    install: tuple[str, ...] = ()
    uninstall: tuple[str, ...] = ()
    elsewhere: ClassVar[str] = ""
    pass_env: ClassVar[tuple[str, ...]] = ()
    """Environment variables that the tool inherits, beside those that servers inherit."""
    needs: ClassVar[str] = ""
    """What to check when the tool fails."""

    @property
    def called(self) -> str:
        """Name of the load or evaluation tool in messages."""
        return f"the tool {self.name!r}"

    def owner(self, _backend: Backend) -> Installable:
        """Return the tool or the backend whose environment contains the tool."""
        return self

    def argv(self, errand: ToolRun, python: str) -> tuple[str, ...]:
        """Return the command line that runs the load or evaluation tool with the interpreter *python*."""
        raise NotImplementedError

    def env(self, errand: ToolRun) -> dict[str, str]:
        """Return the environment variables to set for the load or evaluation tool."""
        return {"OPENAI_API_KEY": errand.api_key} if errand.api_key else {}

    def deadline_s(self, errand: ToolRun) -> float:
        """Return the time in seconds, from its start, after which the load or evaluation tool is stopped."""
        ask = errand.ask
        return errand.deadline_s(ask.requests or 1, ask.prompt_tokens or 1, ask.output_tokens)


class LoadTool(Tool):
    """A tool that sends many requests at once."""

    left_out: ClassVar[frozenset[str]] = frozenset()
    """Metrics that the tool does not measure, or defines differently."""

    def read(self, errand: ToolRun) -> Load:
        """
        Return the load that the tool's report in the run's folder describes.

        Raises `OSError`, `LookupError`, `TypeError` or `ValueError` if the report is missing or wrong.
        """
        raise NotImplementedError


class EvaluationTool(Tool):
    """A tool that sends questions and scores the answers."""

    def read(self, errand: ToolRun) -> Observation:
        """
        Return the scores that the tool's report in the run's folder contains, as an observation.

        Raises `OSError`, `LookupError`, `TypeError` or `ValueError` if the report is missing or wrong.
        """
        raise NotImplementedError


TIMES = frozenset(
    (
        *(f"{name}_{part}_s" for name in ("ttft", "tpot", "itl") for part in ("mean", "p50", "p90", "p99")),
        *("good_share", "goodput_per_s"),
    )
)


def blind_to_empty_tokens(errand: ToolRun) -> frozenset[str]:
    """
    Return the metrics that a load tool cannot measure with random weights if it ignores chunks without text.

    A token may have no text of its own. A trained model rarely generates such tokens, but random weights often do. The
    tool then takes the time of a later token as the time of the first token.
    """
    return TIMES if errand.server.deployment.model.weights == "random" else frozenset()


def failed(asked: int, started_s: float, status: int | None, text: str) -> Exchange:
    """
    Return the exchange of a request that the load tool reports as not served. *status* is the HTTP status, None without
    a response.
    """
    ending: Ending = "disconnected" if status is None else "refused" if status < 500 else "server error"
    refusal = Refusal.read(status, text) if status is not None and status < 500 else None
    return Exchange(0, asked, started_s, ending, started_s, refusal=refusal, detail=text[:500])


def status_in(text: str) -> int | None:
    """
    Return the HTTP status in an error message of a load tool; None if there is none.

    >>> status_in("Client error '404 Not Found' for url ...")
    404
    """
    found = re.search(r"'([45]\d\d) ", text)
    return int(found[1]) if found else None


def seconds(values: Mapping[str, Any], name: str) -> float | None:
    """
    Return the duration *name* of an AIPerf or GuideLLM report in seconds; the report has milliseconds. None if the
    report lacks the duration.
    """
    value = values.get(name)
    value = value.get("value") if isinstance(value, Mapping) else value
    return None if value is None else float(value) / 1000
