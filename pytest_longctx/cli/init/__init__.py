"""``longctx init``: a first finding, a deployment and a CI job for this machine, as files to edit."""

import datetime as dt
import json
import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pytest_longctx import backends, paths, registry, toml, units
from pytest_longctx.backends import environments
from pytest_longctx.cli.init import ci_files
from pytest_longctx.cli.toml_text import text_of, write_new
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.devices.detect import detect
from pytest_longctx.errors import LongctxError, UsageError, unknown
from pytest_longctx.findings.ask import Ask
from pytest_longctx.findings.finding import Finding, Scope, Source
from pytest_longctx.findings.markers import LENGTHS

TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "vllm": "gpu-probe-vllm",
        "vllm-rocm": "gpu-probe-vllm-rocm",
        "vllm-cpu": "cpu-tiny-64k",
        "sglang": "gpu-probe-sglang",
        "transformers": "transformers-tiny-64k",
        "miniature": "miniature",
        "miniature-sglang": "miniature-sglang",
    }
)
"""The shipped deployment from which the first one of each backend is made."""

_PROMPT_TOKENS: Final = 10_000
_OUTPUT_TOKENS: Final = 128
"""Enough to measure a decode rate. With 32 output tokens of a small model the rate varied by half within a run."""
_RUNS: Final = 5
"""Number of repetitions, enough to measure a spread; see `pytest_longctx.cli.record.tolerance`."""
_FINDING: Final = "FIRST-0001"


def add(commands: Any) -> None:
    """Add the subcommand ``longctx init`` to the console parser."""
    parser: ArgumentParser = commands.add_parser(
        "init", help="write a first finding, deployment and CI job for this machine; overwrites nothing"
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="default: this one")
    parser.add_argument(
        "--backend", choices=TEMPLATES, help="default: the engine that is installed here, else miniature"
    )
    parser.add_argument("--model", metavar="MODEL", help="folder or name of a model; default: a small generated model")
    parser.add_argument("--max-model-len", metavar="TOKENS", help="with --model: the context length, for example 128Ki")
    parser.add_argument(
        "--prompt-tokens",
        metavar="TOKENS",
        help="length of the first finding's prompt, as in 60_000; default: 10,000, or the longest that fits",
    )
    parser.add_argument("--ci", choices=("github", "gitlab", "none"), default="none", help="CI job; default: none")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Write the files, print the next steps and return 0. Raises `UsageError` if one of the files exists."""
    name = given.backend or default_backend()
    one = first_deployment(name, given.model, given.max_model_len)
    finding = first_finding(one, given.prompt_tokens)
    files = {
        given.folder / "deployments" / f"{one.name}.toml": text_of(
            one, f"Made by longctx init from the shipped deployment {TEMPLATES[name]}; its keys: docs/reference/keys.md"
        ),
        given.folder / "findings" / f"{finding.id}-first.toml": text_of(
            finding, "Made by longctx init. It has no bounds yet: longctx record makes findings with bounds."
        ),
    }
    settings, typed = pytest_settings(given.folder, one)
    files |= settings
    files |= ci_files.made(given.ci, given.folder, backends.named(name), typed)
    write_new(files)
    pytest = f"cd {shlex.quote(str(given.folder))} && pytest" if typed == "pytest" and given.folder != Path() else typed
    steps = [pytest, "longctx record", typed]  # the first changes the folder
    if given.json:
        print(json.dumps({"backend": name, "files": [str(path) for path in files], "next": steps}, indent=1))
    else:
        print("\n".join([*map(str, files), "next: " + "; ".join(steps)]))
    return 0


def default_backend() -> str:
    """Return the first installed engine for this machine's devices; without any, the miniature."""
    hardware = detect().hardware
    gpu = hardware is not None and hardware.is_gpu
    wanted = ("vllm", "sglang", "vllm-rocm") if gpu else ("vllm-cpu",)
    return next((name for name in wanted if _installed(name)), "miniature")


def _installed(name: str) -> bool:
    try:
        environments.interpreter(backends.named(name))
    except LongctxError:
        return False
    return True


def first_deployment(backend: str, model: str | None = None, max_model_len: str | None = None) -> Deployment:
    """Return the first deployment of *backend*: a shipped deployment with a new name, and with another *model* if given."""
    if backend not in TEMPLATES:
        raise UsageError(unknown("backend", backend, TEMPLATES))
    shipped = deployment.load_all((paths.suites() / "deployments",))[TEMPLATES[backend]]
    changes: dict[str, Any] = {"name": f"own-{backend}", "title": f"first deployment of {backend}", "only_named": True}
    if backend == "miniature":  # its prefill takes no time, and a spread of nothing tells nothing
        changes["flags"] = {"fault": "late-first-token", "late-s": 1.0}
        changes["title"] = "a miniature that answers long prompts after one second"
    if model is not None:
        changes |= _served(shipped, model, max_model_len)
    elif max_model_len is not None:
        raise UsageError("--max-model-len needs --model: the small generated model has a fixed context length")
    content = {**shipped.model_dump(by_alias=True, exclude_defaults=True), **changes}
    return toml.check(content, Deployment, f"first deployment of {backend}")


def _served(shipped: Deployment, model: str, max_model_len: str | None) -> dict[str, Any]:
    """Return the keys of a deployment that serves *model* in place of the *shipped* one's model."""
    if shipped.backend not in registry.BACKENDS or backends.named(shipped.backend).shares_machine:
        raise UsageError(f"--model: the backend {shipped.backend} serves no model; omit --model")
    if max_model_len is None:
        raise UsageError("--model: the context length of the model is missing; add for example --max-model-len 128Ki")
    try:
        length = units.tokens(max_model_len)
    except ValueError as problem:
        raise UsageError(f"--max-model-len: {problem}") from None
    if length <= 2 * _OUTPUT_TOKENS:
        raise UsageError(
            f"--max-model-len: {length} tokens leave no room for a prompt; write more than {2 * _OUTPUT_TOKENS}"
        )
    here = Path(model).expanduser()
    origin = {"path": str(here.resolve())} if here.exists() else {"id": model}
    name = re.sub(r"[^\w.-]+", "-", here.name) or "model"
    flags = {key: value for key, value in shipped.flags.items() if key not in ("load-format", "random-weights")}
    return {
        "model": {"name": name, "weights": "real", **origin},
        "max_model_len": length,
        "context_lengths": (),
        "flags": flags,
    }


def first_finding(one: Deployment, prompt_tokens: str | None = None) -> Finding:
    """
    Return the first finding: a prompt is served on the deployment *one*, several times, after one warm-up.

    Raises `UsageError` if *prompt_tokens* is no length, or more than the deployment serves.
    """
    longest = one.max_model_len or min(one.context_lengths, default=_PROMPT_TOKENS + _OUTPUT_TOKENS)
    length = min(_PROMPT_TOKENS, longest - _OUTPUT_TOKENS) if prompt_tokens is None else _length(prompt_tokens, longest)
    marker = next((name for name, tokens in reversed([*LENGTHS.items()]) if tokens <= length), "ten_k")
    today = dt.datetime.now(dt.UTC).date()
    return Finding(
        id=_FINDING,
        title=f"{length:,} tokens are served and counted exactly",
        question="served",
        markers=(marker, "context_length"),
        status="predicted",
        reviewed=today,
        source=Source(document="longctx init", date=today),
        scope=Scope(deployment=(one.name,)),
        ask=Ask(prompt_tokens=length, output_tokens=_OUTPUT_TOKENS, runs=_RUNS, warm_up=1),
    )


def _length(text: str, longest: int) -> int:
    try:
        length = units.tokens(text)
    except ValueError as problem:
        raise UsageError(f"--prompt-tokens: {problem}") from None
    if not 0 < length <= longest - _OUTPUT_TOKENS:
        raise UsageError(
            f"--prompt-tokens: {length:,} tokens do not fit; the deployment serves {longest:,}, "
            f"including {_OUTPUT_TOKENS} for the answer"
        )
    return length


def pytest_settings(folder: Path, one: Deployment) -> tuple[dict[Path, str], str]:
    """
    Return a ``pytest.ini`` with which ``pytest`` alone judges the findings of *folder*, and the command to type.

    A project with pytest settings keeps them. Then there is no file, and the command has all options.
    """
    if _has_settings(folder):
        typed = (
            f"pytest --pyargs pytest_longctx.suites --backend={one.backend} --longctx-data={shlex.quote(str(folder))} "
            f"--longctx-deployment={one.name} -m 'not claims and not certificate'"
        )
        return {}, typed
    text = f"""\
[pytest]
# Without arguments: the suites of pytest-longctx, on the deployment of this folder.
addopts = --pyargs --strict-markers -m "not claims and not certificate"
testpaths = pytest_longctx.suites
longctx_backend = {one.backend}
longctx_data = .
longctx_deployment = {one.name}
"""
    return {folder / "pytest.ini": text}, "pytest"


def _has_settings(folder: Path) -> bool:
    """Return whether pytest already finds settings in *folder*. Raises `TableError` for a wrong ``pyproject.toml``."""
    if any((folder / name).exists() for name in ("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml")):
        return True
    settings = folder / "pyproject.toml"
    project = toml.read(settings) if settings.exists() or settings.is_symlink() else {}
    own = "pytest" in project.get("tool", {})
    sections = (("tox.ini", "[pytest]"), ("setup.cfg", "[tool:pytest]"))
    return own or any(
        (folder / name).is_file() and section in (folder / name).read_text(encoding="utf-8", errors="replace")
        for name, section in sections
    )
