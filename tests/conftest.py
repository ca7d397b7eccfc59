"""Shared fixtures of the plugin's own tests: runs of the real suites in separate folders."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import anyio._backends._asyncio  # noqa: F401 - see httpcore
import httpcore  # noqa: F401 - pytester forgets what a run imports, and httpx would not know its exceptions again
import pytest

from pytest_longctx import Results, paths, read_results, redaction

if sys.dont_write_bytecode and "PYTHONPYCACHEPREFIX" not in os.environ:
    # Without a shared cache, each process that a test starts would compile the package and its assertions again: two fifths of the
    # time of such a test. The checkout is not changed; xdist's workers and their child processes share the folder.
    _compiled = tempfile.mkdtemp(prefix="pytest-longctx-compiled-")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = _compiled
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False

if find_spec("sniffio") is None:
    # httpcore tries this import several times for each request. If it is missing, each attempt searches every path again.
    sys.modules["sniffio"] = None  # type: ignore[assignment]

# ``pytest --backend=... -m ...`` names no path and must work from a plain installation; without the extra [test] these tests
# are not collected, and a run that names them finds none, which is exit code 5.
collect_ignore_glob = [] if all(map(find_spec, ("hypothesis", "junitparser", "tokenizers"))) else ["*"]

FAULTY = """
name = "faulty"
title = "a miniature with one fault"
backend = "miniature"
max_model_len = 65_536

[model]
name = "miniature"
weights = "unknown"

[flags]
fault = "{fault}"
crawl-s = 0.02

[timeouts]
boot_s = {boot_s}
stall_s = {stall_s}
admission_s = 0.3
answer_s = {answer_s}
canary_s = {answer_s}
slowest_prefill_tokens_per_s = 1_000_000
slowest_decode_tokens_per_s = 1000
"""


@pytest.fixture(autouse=True)
def no_remembered_secrets() -> Iterator[None]:
    """Each test has secrets of its own."""
    redaction.forget()
    yield
    redaction.forget()


@dataclass
class Run:
    """A finished run and its results file, if one was written."""

    outcome: pytest.RunResult
    folder: Path

    @property
    def results(self) -> Results:
        """The complete results file."""
        return read_results(self.folder / "results" / "results.jsonl")

    @property
    def text(self) -> str:
        """Printed output."""
        return self.outcome.stdout.str() + self.outcome.stderr.str()


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """``run("--backend=miniature", "-m", "smoke")``: run the shipped suites in an empty project."""
    for name in ("CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\naddopts = --strict-markers -p no:cacheprovider -p no:hypothesispytest\n"
    )

    def start(*arguments: str, what: str | None = None) -> Run:
        here = ("-c", str(pytester.path / "tox.ini"), f"--rootdir={pytester.path}")
        outcome = pytester.runpytest(what or str(paths.suites()), *here, *arguments)
        return Run(outcome, pytester.path)

    return start


@pytest.fixture
def faulty(pytester: pytest.Pytester) -> Callable[[str], str]:
    """Write a deployment with the fault *fault* and return the options that select it."""

    def write(fault: str) -> str:
        # Only servers that are known to hang get a short deadline. All others have enough time on a busy machine.
        # A hang is a silence of half the deadline, which the start of an interpreter alone must not reach.
        boot_s = {"hangs-at-boot": 8, "never-healthy": 8, "crawls-at-boot": 4}.get(fault, 30)
        stalls = ("stalls-mid-stream", "stalls-halfway", "stalls-in-prefill", "wedges")
        answer_s, stall_s = (15, 0.4) if fault in stalls else (30, 30)
        path = pytester.path / "faulty.toml"
        path.write_text(FAULTY.format(fault=fault, boot_s=boot_s, answer_s=answer_s, stall_s=stall_s), encoding="utf-8")
        return f"--longctx-deployment={path.name}"

    return write
