"""Run a tool in a supervised process with a deadline and a log, and read the server's counters before and after."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Final, TypeVar

import httpx

from pytest_longctx.backends import Recipe, environments
from pytest_longctx.client import load
from pytest_longctx.client.adapters import EvaluationTool, LoadTool, Tool, ToolRun, failed
from pytest_longctx.client.load import Load
from pytest_longctx.client.request import open_client
from pytest_longctx.client.watchdog import CONNECT_S
from pytest_longctx.errors import LaunchError, ModelError
from pytest_longctx.observation import Observation, Outcome
from pytest_longctx.processes import Process, environment
from pytest_longctx.processes.progress import Progress, ProgressCallback, no_progress
from pytest_longctx.redaction import mask_file, shown

PROMPT_SLACK: Final = 0.02
"""
Largest deviation of the mean prompt length from the requested one. Text made from tokens may have another token count.
"""

_LOOK_S: Final = 0.2
_AN_ERROR: Final = re.compile(r"^([\w.]*(Error|Exception)\b|error:).*", re.IGNORECASE)

T = TypeVar("T")


class _Failure(Exception):  # noqa: N818 - never seen outside: it becomes an observation
    """The reason why a load or evaluation tool measured nothing."""


def run_load(
    tool: LoadTool, errand: ToolRun, wanted: Path | None = None, watch: ProgressCallback = no_progress
) -> Load:
    """Run a load with *tool* and return the result. If the tool fails, return a load without exchanges, with the reason."""
    if errand.ask.rate_per_s is not None:
        # Tools start a request's clock when they send it, so the delay of a late request is not counted as waiting.
        message = f"{tool.name}: cannot send open loops (ask.rate_per_s) correctly: leave --longctx-load out"
        return Load((), measured_by=tool.name, said=message)
    before = load.reading(errand.server)
    try:
        by, found = _measured(tool, tool.read, errand, wanted, watch)
        _check_lengths(found, errand)
    except _Failure as failure:
        gone = () if _answers(errand) else (failed(errand.ask.output_tokens, 0.0, None, str(failure)),)
        return Load(gone, measured_by=tool.name, said=f"{tool.name}: {failure}")
    ledger = load.ledger_since(errand.server, before, found.exchanges)
    # A tool may send warm-up requests of its own, which the counters include.
    left_out = found.left_out | tool.left_out | {"ledger_gap_tokens"}
    return replace(found, ledger=ledger, left_out=left_out, measured_by=by)


def score(
    tool: EvaluationTool, errand: ToolRun, wanted: Path | None = None, watch: ProgressCallback = no_progress
) -> Observation:
    """Measure accuracy with *tool* and return the result. If the tool fails, return an empty observation with the reason."""
    try:
        by, found = _measured(tool, tool.read, errand, wanted, watch)
    except _Failure as failure:
        outcome: Outcome | None = None if _answers(errand) else "disconnects"
        return Observation(outcome, said=f"{tool.name}: {failure}", measured_by=tool.name)
    return replace(found, measured_by=f"{by}, {found.measured_by}")


def _measured(
    tool: Tool, read: Callable[[ToolRun], T], errand: ToolRun, wanted: Path | None, watch: ProgressCallback
) -> tuple[str, T]:
    """Run the load or evaluation tool, and return its name with the version, and its report."""
    owner = tool.owner(errand.server.backend)
    try:
        # --longctx-python names the backend's interpreter; it does not apply to a tool with an environment of its own.
        python = environments.interpreter(owner, None if owner is tool else wanted)
        argv = tool.argv(errand, str(python))
    except (LaunchError, ModelError) as problem:
        lines = str(problem).splitlines()
        raise _Failure("; ".join(" ".join(line.split()) for line in (lines[0], *lines[1:][-1:]))) from None
    errand.folder.mkdir(parents=True, exist_ok=True)
    _run(tool, argv, errand, watch)
    try:
        return f"{tool.name} {environments.installed_version(owner, python)}", read(errand)
    except (OSError, LookupError, TypeError, ValueError) as problem:
        raise _Failure(f"no readable report ({type(problem).__name__}: {problem}); see {_log(errand)}") from None


def _run(tool: Tool, argv: tuple[str, ...], errand: ToolRun, watch: ProgressCallback) -> None:
    limit_s = tool.deadline_s(errand)
    recipe = Recipe(
        name=tool.name,
        argv=argv,
        env=tool.env(errand),
        port=0,
        model=errand.server.model,
        boot_s=limit_s,
        pass_env=tool.pass_env,
        secrets=errand.server.secrets,
    )
    process = Process(recipe, environment(recipe, os.environ), _log(errand))
    started_s = time.monotonic()
    try:
        while (code := process.exit_code()) is None and time.monotonic() - started_s < limit_s:
            watch(
                Progress(
                    f"{tool.name} to {errand.server.deployment.name}", "load", time.monotonic() - started_s, limit_s
                )
            )
            time.sleep(_LOOK_S)
    finally:
        process.stop()
        _mask(errand.folder, process.secrets)
    if code is None:
        raise _Failure(f"not finished within {limit_s:.0f} s; see {_log(errand)}")
    if code != 0:
        needs = f"; it needs {tool.needs}" if tool.needs else ""
        said = shown(_last_words(_log(errand)), errand.server.secrets) or f"exit code {code}"
        raise _Failure(f"{said}{needs}; see {_log(errand)}")


def _log(errand: ToolRun) -> Path:
    return errand.folder / "output.log"


def _mask(folder: Path, secrets: tuple[str, ...]) -> None:
    """
    Mask secrets in every file that the tool wrote, because its command line and the server's messages may contain
    secrets.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            mask_file(path, secrets)


def _last_words(log: Path) -> str:
    """
    Return the last error in a tool's log, or the last line if the log has no error. Some libraries print more lines on
    exit.
    """
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if _AN_ERROR.match(line)]
    return (errors or lines or [""])[-1][:300]


def _answers(errand: ToolRun) -> bool:
    """Return whether the server still answers after the tool has run."""
    try:
        with open_client(errand.server, CONNECT_S) as http:
            return http.get(errand.server.backend.health).status_code < 500
    except httpx.HTTPError:
        return False


def _check_lengths(found: Load, errand: ToolRun) -> None:
    """
    Raise `_Failure` unless the mean prompt length is the requested one. A finding about 1,024 tokens needs such
    prompts.
    """
    counted = [each.usage.prompt_tokens for each in found.exchanges if each.usage.prompt_tokens]
    asked = errand.ask.prompt_tokens or 0
    if counted and abs(fmean(counted) - asked) > PROMPT_SLACK * asked:
        raise _Failure(f"the tool's prompts had {fmean(counted):,.1f} tokens on average, but {asked:,} were requested")
