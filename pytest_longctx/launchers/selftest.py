"""Inject faults into a running engine one by one, and record which checks of the cache paths name each fault."""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx

from pytest_longctx import backends, paths, processes, registry
from pytest_longctx.backends import defaults, environments
from pytest_longctx.backends.vllm import engine_faults
from pytest_longctx.client import prefix_cache, state_paths
from pytest_longctx.client.server import Server
from pytest_longctx.deployments import deployment, models
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.devices import calibration, detect
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings import finding, verdicts
from pytest_longctx.findings.verdicts import Verdict
from pytest_longctx.launchers import Launch
from pytest_longctx.processes.progress import no_progress
from pytest_longctx.prompts import PromptFactory

ENGINES: Mapping[str, str] = MappingProxyType({"vllm-cpu": "cpu-paths"})
"""Engines in which faults can be injected, each with its default deployment."""

_GPT_OSS, _MAMBA2, _DRAFTS, _DISK, _RANDOM = (
    "cpu-paths-gpt-oss",
    "cpu-paths-mamba2",
    "cpu-paths-ngram",
    "cpu-paths-disk",
    "cpu-paths-random",
)
ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "window-too-small": _GPT_OSS,
        "window-too-large": _GPT_OSS,
        "sinks-left-out": _GPT_OSS,
        "state-not-reset": _MAMBA2,
        "state-not-restored": _MAMBA2,
        "convolution-not-restored": _MAMBA2,
        "states-swapped": _MAMBA2,
        "drafts-all-accepted": _DRAFTS,
        "transfer-cut-short": _DISK,
        "transfer-of-another": _DISK,
        "position-off-by-one-on-hit": _RANDOM,
        "scale-lost-on-hit": _RANDOM,
        "answer-not-stored": _RANDOM,
    }
)
"""Faults that need another model or other flags, each with its deployment."""

CHECKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cpu-paths": ("SP-0001", "SP-0002", "SP-0007"),
        _GPT_OSS: ("SP-0001", "SP-0002"),
        _MAMBA2: ("SP-0001", "SP-0020"),
        _DRAFTS: ("SP-0001", "SP-0015"),
        _DISK: ("SP-0017",),
        _RANDOM: ("SP-0027", "SP-0028", "SP-0029"),
    }
)
"""For each deployment, the findings that judge every fault injected there."""
ALSO: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "stale-after-eviction": ("SP-0008",),
        "reset-does-nothing": ("SP-0010",),
        "salt-ignored": ("SP-0011",),
        "hash-without-last-token": ("SP-0003",),
        "hash-without-parent": ("SP-0026",),
        "last-of-chunk-lost": ("SP-0004",),
        "wrong-block-far": ("SP-0005",),
        "preempted-as-computed": ("SP-0009",),
        "abandoned-as-computed": ("SP-0013",),
        "row-not-moved": ("SP-0022",),
        "wrong-block-beside-a-prompt": ("SP-0021",),
        "wrong-block-at-border": ("SP-0024",),
        "block-given-twice": ("SP-0020",),
        "logits-of-another": ("SP-0020",),
        "state-not-reset": ("SP-0025",),
        "state-not-restored": ("SP-0016",),
        "convolution-not-restored": ("SP-0004",),
    }
)
"""Additional findings for faults that need a path of their own."""
ORDER: Final = (
    "cold",
    "repeated",
    "other-salt",
    "reset",
    "block-border",
    "chunk-border",
    "window-border",
    "decode-border",
    "other-beginning",
    "extended",
    "chunks",
    "same-at-once",
    "lengths",
    "branch",
    "arriving",
    "leaving",
    "cancelled",
    "reused",
    "evicted",
    "preempted",
    "abandoned",
    "crowd",
    "speculation",
    "external",
    "stored-dtype",
)
"""
Paths from the simplest to those that build on others.

The first path that is wrong names the fault. A path that fails alone also fails in company, so the later ones add
nothing.
"""
LASTING: Final = frozenset({"nan"})
"""
Faults whose effects remain after they are turned off. They are injected after the last judgement without a fault.

A masked value is multiplied by zero, and zero times NaN is NaN. So a NaN in a freed block damages the next request that
gets the block.
"""
_TOKENS: Final = 900
"""Tokens of a prompt, chosen so that neither prompt nor answer ends within four tokens of the border of a block of 128."""
_LONG: Mapping[str, int] = MappingProxyType({"chunks": 5000, "abandoned": 5000, "preempted": 2000, "external": 2000})
"""Tokens of a prompt on paths that need longer ones, or whose finding bounds a count of tokens."""
_NO_FAULT: Final = "none"


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts on an engine with one fault."""

    fault: str
    verdicts: tuple[Verdict, ...]
    where: str = ""
    """The deployment."""

    @property
    def red(self) -> tuple[Verdict, ...]:
        """Verdicts of the checks that name the injected fault."""
        return tuple(each for each in self.verdicts if each.word == "broken")

    @property
    def named_by(self) -> Verdict | None:
        """
        The verdict that names the injected fault: of the red verdicts, the one with the simplest path; None if none is
        red.
        """
        return min(self.red, key=lambda each: ORDER.index(str(each.finding.ask.path)), default=None)

    def row(self) -> str:
        """Return the row of the injected fault for the selftest's Markdown table."""
        name, first = _shown(self.named_by), self.named_by
        also = "; ".join(_shown(each) for each in self.red if each is not first)
        green = ", ".join(str(each.finding.ask.path) for each in self.verdicts if each.word == "holds")
        unmeasured = ", ".join(str(each.finding.ask.path) for each in self.verdicts if each.word == "unmeasured")
        what = engine_faults.FAULTS.get(self.fault, "the engine as it is")
        rest = " | ".join(each or "none" for each in (also, green, unmeasured))
        return f"| `{self.fault}` | {what} | {self.where} | {name} | {rest} |"


def _shown(verdict: Verdict | None) -> str:
    if verdict is None:
        return "none"
    return f"{verdict.finding.ask.path}: {', '.join(line.measure for line in verdict.broken)}"


HEAD: Final = (
    "| fault | what it does | deployment | named by | also red | green | unmeasured |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def run(engine: str, faults: Sequence[str], logs: Path, tell: Callable[[str], None]) -> bool:
    """
    Run the selftest and return whether it passed: boot *engine* in each deployment that *faults* need, and judge it
    with each fault and without.

    *tell* gets a table. Return whether every fault is named, and no finding is red without a fault. Raises `UsageError`
    and `LongctxError`.
    """
    if engine not in ENGINES:
        raise UsageError(f"selftest: {unknown('engine', engine, ENGINES)}")
    for name in faults:
        if name not in engine_faults.FAULTS:
            raise UsageError(f"selftest: {unknown('fault', name, engine_faults.FAULTS)}")
    tell(HEAD)
    sound = True
    for where, own in by_deployment(engine, faults).items():
        sound &= _tested(engine, where, own, logs, tell)
    return sound


def by_deployment(engine: str, faults: Sequence[str]) -> dict[str, list[str]]:
    """Return the selftest's *faults*, or all known faults, by the deployment of *engine* in which each is injected."""
    found: dict[str, list[str]] = {}
    for name in faults or engine_faults.FAULTS:
        found.setdefault(ELSEWHERE.get(name, ENGINES[engine]), []).append(name)
    return found


def checks(where: str, fault: str, planted: Sequence[str]) -> tuple[str, ...]:
    """
    Return ids of the findings that judge *fault* in the selftest. Without a fault, the findings for all of *planted*
    must stay green.
    """
    own = [each for name in (planted if fault == _NO_FAULT else [fault]) for each in ALSO.get(name, ())]
    return tuple(dict.fromkeys((*CHECKS[where], *own)))


def _tested(engine: str, where: str, faults: Sequence[str], logs: Path, tell: Callable[[str], None]) -> bool:
    """
    Judge *engine* in the deployment *where* with each of *faults*, and return whether all were named. A fault that ends
    the engine causes a new boot.
    """
    known = finding.load_all((paths.suites() / "findings",))
    sound, rest = True, list(in_order(faults))
    while rest:
        with (
            tempfile.TemporaryDirectory(prefix="longctx-faults-") as folder,
            _serving(engine, where, Path(folder), logs) as server,
        ):
            while rest:
                name = rest.pop(0)
                wanted = [known[each] for each in checks(where, name, faults)]
                judged = _judge(server, name, Path(folder) / "armed", wanted)
                tell(judged.row())
                sound &= (not judged.red) if name == _NO_FAULT else bool(judged.red)
                if _gone(server):
                    break
    return sound


def _gone(server: Server) -> bool:
    """
    Return whether the last fault of the selftest has ended *server*: it has exited, or refuses connections and will
    exit.
    """
    if server.ended(0.0) is not None:
        return True
    try:
        prefix_cache.reset(server)
    except (OSError, httpx.HTTPError):
        return True
    return False


REPEATED: Final = (
    *("SP-0001", "SP-0002", "SP-0003", "SP-0006", "SP-0007", "SP-0010", "SP-0011"),
    *(f"SP-{number:04}" for number in range(19, 27)),
)
"""Findings for repetitions without a fault. Each takes seconds and works with any prompt length."""
_SHORTEST, _LONGEST = 300, 2000


def repeat(engine: str, count: int, seed: int, logs: Path, tell: Callable[[str], None]) -> bool:
    """
    Boot *engine*, judge it *count* times without a fault, and return whether every verdict was green. *seed* draws
    paths and prompt lengths.

    *tell* gets each verdict that does not hold, and the number of each. Return whether none was red. Raises
    `UsageError` and `LongctxError`.
    """
    if engine not in ENGINES:
        raise UsageError(f"selftest: {unknown('engine', engine, ENGINES)}")
    known = finding.load_all((paths.suites() / "findings",))
    words: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="longctx-faults-") as folder,
        _serving(engine, ENGINES[engine], Path(folder), logs) as server,
    ):
        for number, (one, tokens) in enumerate(drawn(seed, count)):
            verdict = _verdict(server, known[one], tokens, f"{seed}/{number}", seed)
            words[verdict.word] += 1
            if verdict.word != "holds":
                tell(f"{number}: {one}, {known[one].ask.path}, {tokens} tokens: {verdict.word}: {verdict.why}")
    tell(f"seed {seed}: " + ", ".join(f"{words[word]} {word}" for word in ("holds", "unmeasured", "broken")))
    return not words["broken"]


def drawn(seed: int, count: int) -> Iterator[tuple[str, int]]:
    """Yield *count* random findings for the selftest, each with a prompt length in tokens."""
    draw = random.Random(seed)
    for _ in range(count):
        yield draw.choice(REPEATED), draw.randint(_SHORTEST, _LONGEST)


def _verdict(server: Server, one: finding.Finding, tokens: int, key: str, seed: int) -> Verdict:
    """Return the selftest's verdict of finding *one* with prompts of *tokens*, made from *seed* and *key*."""
    asked = one.ask.model_copy(update={"prompt_tokens": tokens})
    prompt = PromptFactory(seed, f"{key}/{one.id}", server.deployment.model.ordinary_ids)
    seen = state_paths.observe(server, prompt, asked, no_progress)
    return verdicts.judge(one, replace(seen, sent_tokens=None))


def in_order(faults: Sequence[str]) -> tuple[str, ...]:
    """
    Return the faults in the order of the selftest: *faults* between two judgements without any, then faults with
    lasting effects.
    """
    passing = [name for name in faults if name not in LASTING]
    return (_NO_FAULT, *passing, _NO_FAULT, *(name for name in faults if name in LASTING))


def _judge(server: Server, fault: str, control: Path, checks: Sequence[finding.Finding]) -> Judged:
    """Return the selftest's verdicts of *checks* while *fault* is injected. The prefix cache is emptied before and after."""
    prefix_cache.reset(server)
    found: list[Verdict] = []
    try:
        control.write_text("" if fault == _NO_FAULT else fault, encoding="utf-8")
        for one in checks:
            tokens = _LONG.get(str(one.ask.path), _TOKENS)
            found.append(_verdict(server, one, tokens, fault, int.from_bytes(os.urandom(4))))
            if server.ended(0.0) is not None:
                break  # what comes after the end says nothing about the fault
    finally:
        control.write_text("", encoding="utf-8")
        with suppress(OSError, httpx.HTTPError):  # a fault may end the engine, even after its last answer
            prefix_cache.reset(server)
    return Judged(fault, tuple(found), server.deployment.name)


@contextmanager
def _serving(engine: str, where: str, folder: Path, logs: Path) -> Iterator[Server]:
    """Boot *engine* for the selftest in the deployment *where*, with the faults' plugin in *folder*, and yield the server."""
    backend = backends.named(engine)
    one = deployment.load_all((paths.suites() / "deployments",))[where]
    one = one.model_copy(update={"env": {**one.env, **engine_faults.write_plugin(folder)}})
    python = environments.interpreter(backend, None)
    speed = calibration.measure(python, processes.environment(backend.recipe(one, "", 0), os.environ))
    ready = defaults.settle(one, backend, Machine(Hardware("cpu"), cpu_flags=detect.cpu_flags()).measured(speed))
    launcher = registry.load(registry.LAUNCHERS["process"])()
    launch = Launch(backend, ready, models.locate(ready.model), logs, python=python)
    with launcher.up(launch) as server:
        yield server
