"""
Root causes of a run: one failed boot, one server, one law.

Verdicts that fail for one cause form one group. Terminal, JUnit XML and the page use the same key, so each cause is told once.
The key is made from the reason of a verdict; what no rule covers stays a group of its own measure.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import join, quote
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pytest_longctx import paths
from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.measures import MEASURES
from pytest_longctx.reports.results import Results

Row = Mapping[str, Any]

FAILING: Final = ("broken", "unmeasured")
"""Verdicts that are grouped by cause."""


class Missed(NamedTuple):
    """One bound that decides a verdict, with the figure, as text."""

    measure: str
    seen: str
    allowed: str


class Key(NamedTuple):
    """The identity of a cause: its kind, the deployment, and a detail that separates different causes."""

    kind: str
    deployment: str
    detail: str = ""


_LAWS: Mapping[str, str] = MappingProxyType(
    {
        "prompt_tokens": "prompt count",
        "server_prompt_tokens": "prompt count",
        "miscounted_prompts": "prompt count",
        "ledger_gap_tokens": "prompt count",
        "completion_tokens": "answer count",
        "server_completion_tokens": "answer count",
        "miscounted_answers": "answer count",
        "cached_share": "cache",
        "cached_share_before": "cache",
        "cached_tokens": "cache",
        "server_cached_tokens": "cache",
        "ttft_gap_s": "clocks",
        "claim_shortfall_tokens": "limit",
    }
)
"""The law that a measure belongs to: a server that violates it does so in every test."""
_DOWN: Final = frozenset({"dies", "runs out of memory", "asserts", "disconnects"})
"""Outcomes after which a server no longer answers. Later failures follow from the first."""
_LIMITS: Final = frozenset({"refuses", "serves"})
_SPEED_UNITS: Final = frozenset({"s", "tokens/s", "requests/s"})
_LONGEST: Final = 8000
"""Characters of a reason that are searched. Reasons have some hundred; the time grows with the square."""
_QUOTED: Final = re.compile(r' \("(.*)"\)(?=$|; )')
_MISSED: Final = re.compile(r"([a-z][a-z_0-9 ]*?): (.+?), wanted (.+?)(?=; [a-z][a-z_0-9 ]*?: [^;]+?, wanted |$)")


def missed(why: str) -> list[Missed]:
    """
    Return the missed bounds that the reason of a verdict names, to find its cause; empty if the reason names none.

    >>> missed("ttft_s: 4 s, wanted <= 3 s; recovered: 0, wanted exactly 1")
    [Missed(measure='ttft_s', seen='4 s', allowed='<= 3 s'), Missed(measure='recovered', seen='0', allowed='exactly 1')]
    """
    flat = unquoted(why)
    return [Missed(*each.groups()) for each in _MISSED.finditer(flat)] if _MISSED.match(flat) else []


def unquoted(why: str) -> str:
    """Return the reason of a verdict on one line, without the server's message that it quotes."""
    return _QUOTED.sub("", _flat(why))


def _flat(why: str) -> str:
    """Return the first `_LONGEST` characters of the reason of a verdict on one line, to search only this part."""
    return " ".join(why[:_LONGEST].split())


def quoted(why: str) -> str:
    """
    Return the server's message that the reason of a verdict quotes; empty if the reason quotes none.

    >>> quoted('outcome: dies, wanted serves ("no memory"); predicted to fit')
    'no memory'
    """
    found = _QUOTED.search(_flat(why))
    return found[1] if found else ""


def key(why: str, deployment: str) -> Key:
    """
    Return the cause of a verdict with the reason *why* on a server that had booted.

    >>> key("prompt_tokens: 750 tokens, wanted exactly 1,000 tokens", "tiny")
    Key(kind='prompt count', deployment='tiny', detail='')
    """
    lines = missed(why)
    if not lines:
        return Key("reason", deployment, " ".join(why.split())[:200])
    first = lines[0]
    if first.seen == "not observed":
        return Key("not observed", deployment)
    if first.measure == "outcome":
        if first.seen in _DOWN:
            return Key("server down", deployment)
        return Key("limit", deployment) if first.seen in _LIMITS else Key("outcome", deployment, first.seen)
    if law := _LAWS.get(first.measure):
        return Key(law, deployment)
    unit = MEASURES[first.measure].unit if first.measure in MEASURES else ""
    return Key("speed", deployment) if unit in _SPEED_UNITS else Key("measure", deployment, first.measure)


_DERIVED: Final = frozenset({"miscounted_prompts", "miscounted_answers", "ledger_gap_tokens", "cached_share_before"})
"""Measures that summarise many requests: a single request explains the same cause better."""


def is_derived(why: str) -> bool:
    """Return whether the reason of a verdict summarises many requests, so that a single request explains the cause better."""
    return bool(lines := missed(why)) and lines[0].measure in _DERIVED


@dataclass(frozen=True, slots=True)
class Cause:
    """One root cause and the verdicts that follow from it, in the order of the run."""

    key: Key
    rows: list[Row] = field(default_factory=list)
    boot: Row | None = None
    """The failed boot, if that is the cause."""

    @property
    def lead(self) -> Row | None:
        """
        The verdict that is explained in full: the first that summarises no other requests, else the first; None for a
        failed boot that no finding needed.
        """
        return min(self.rows, key=lambda row: is_derived(row["why"])) if self.rows else None

    @property
    def findings(self) -> list[str]:
        """The findings of the cause, each once, in the order of the run."""
        return list(dict.fromkeys(row["finding"] for row in (*filter(None, [self.lead]), *self.rows)))

    @property
    def word(self) -> str:
        """The worst verdict of the cause."""
        return min((row["verdict"] for row in self.rows), key=WORST_FIRST.index, default="broken")

    @property
    def sentence(self) -> str:
        """The cause in one sentence without a full stop."""
        why = self.lead["why"] if self.lead else ""
        return sentence(self.key, missed(why), self.boot, quoted(why))


_SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "prompt count": "{deployment} counts other prompt tokens than were sent ({seen}, {allowed})",
        "answer count": "{deployment} counts other answer tokens than were asked for ({seen}, {allowed})",
        "clocks": "the clocks of {deployment} and of the client disagree about the first token ({seen} apart)",
        "speed": "{deployment} misses a bound of its speed ({measure} {seen}, {allowed})",
        "not observed": "{deployment} does not report {measure}",
    }
)


def sentence(it: Key, lines: Sequence[Missed], boot: Row | None = None, message: str = "") -> str:
    """Return the cause *it* in one sentence without a full stop, from the bounds that its lead misses and a message."""
    name = it.deployment or "the claim"
    if it.kind == "boot":
        return f"{name} does not boot: {_end_of(boot or {})}"
    if not lines:
        return f"{name}: {it.detail}" if it.detail else name
    first = lines[0]
    if it.kind == "limit":
        return f"{_limit(name, first)}: {_short(message)}" if message else _limit(name, first)
    if it.kind == "cache":
        return _cache(name, first)
    if it.kind in ("outcome", "server down"):
        said = f": {_short(message)}" if message else ""
        return f"{name} {_ENDINGS.get(first.seen, first.seen)}{said}"
    form = _SENTENCES.get(it.kind, "{measure} of {deployment} is {seen}, {allowed}")
    allowed = f"allowed {first.allowed}"
    return form.format(deployment=name, measure=first.measure, seen=first.seen, allowed=allowed)


def _end_of(boot: Row) -> str:
    """Return how the failed boot of a cause ended: the known signature or, without one, the first words of the cause."""
    outcome = f"it {boot['outcome']}" if boot.get("outcome") else "it was too slow for the time limits of this run"
    cause = dict(explained(boot.get("explained") or "")).get("because", boot.get("said", ""))
    said = boot.get("signature") or (cause or "").partition(";")[0]
    return f"{outcome} ({_short(said)})" if said else outcome


def _short(text: str, most: int = 120) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 3]}..."


_ENDINGS: Mapping[str, str] = MappingProxyType(
    {
        "dies": "dies under a request",
        "runs out of memory": "runs out of memory under a request",
        "asserts": "ends under a request by an assertion",
        "disconnects": "disconnects instead of an answer",
        "hangs": "does not finish a request",
        "is not admitted": "never schedules a request",
        "fails": "answers a request with an error of its own",
    }
)


def _limit(name: str, first: Missed) -> str:
    if first.seen == "refuses":
        return f"{name} refuses a length that it should serve"
    if first.seen == "serves":
        return f"{name} serves a request that should be {'refused' if 'refuses' in first.allowed else 'a failure'}"
    return f"{name} serves less than it claims ({first.measure} {first.seen}, allowed {first.allowed})"


def _cache(name: str, first: Missed) -> str:
    if first.allowed.startswith("<=") or first.allowed.startswith("exactly 0"):
        return f"{name} answers from its prefix cache where it must read the prompt (cached share {first.seen})"
    return f"{name} does not answer a repeated prompt from its prefix cache (cached share {first.seen})"


def failed_boots(results: Results) -> dict[str, Row]:
    """Return from *results* the last boot of each deployment that did not boot, to report its cause."""
    last = {boot.get("deployment", ""): boot for boot in results.boots}
    return {name: boot for name, boot in last.items() if boot["outcome"] != "serves"}


def causes(results: Results) -> list[Cause]:
    """Return the root causes of all failing verdicts, the most severe and the largest first; boots before servers."""
    failed, found = failed_boots(results), dict[Key, Cause]()
    for row in results.verdicts:
        if row["verdict"] not in FAILING:
            continue
        name = row["server"].get("deployment", "")
        it = Key("boot", name) if name in failed else key(row["why"], name)
        found.setdefault(it, Cause(it, boot=failed.get(name) if it.kind == "boot" else None)).rows.append(row)
    for name, boot in failed.items():
        if not any(row["server"].get("deployment", "") == name for row in results.verdicts):
            found[Key("boot", name)] = Cause(Key("boot", name), boot=boot)
    return sorted(found.values(), key=_severity)


def _severity(cause: Cause) -> tuple[int, bool, int]:
    return WORST_FIRST.index(cause.word), cause.boot is None, -len(cause.rows)


def expected(results: Results) -> Iterator[tuple[Row, Row | None]]:
    """
    Yield the failures that a finding documents, apart from the causes: the verdict and its boot (None without one),
    known or required to fail.
    """
    failed = failed_boots(results)
    for row in results.verdicts:
        name = row["server"].get("deployment", "")
        if row["verdict"] == "known" or (row["verdict"] == "holds" and name in failed):
            yield row, failed.get(name)


def remarks(results: Results) -> list[Row]:
    """Return the verdicts that hold but have a remark, such as a wrong prediction of their boot."""
    return [row for row in results.verdicts if row["verdict"] == "holds" and row["why"]]


def again(header: Row, row: Row) -> str:
    """
    Return the command that repeats the test of a cause's verdict with the same prompts from any folder.

    A merged file has more than one seed.
    """
    typed = header.get("options") or [
        f"--backend={header.get('backend', 'NAME')}",
        *(word for word in header.get("arguments", ()) if word.startswith("--longctx-") and "=" in word),
    ]
    seed = row["server"].get("seed") or header.get("seed", "N")
    return f"pytest {_test(header, row['test'])} {join(typed)} --longctx-seed={seed}"


def _test(header: Row, name: str) -> str:
    """Return the pytest arguments that select only the test *name*: tests of suites by case, other tests by path."""
    file, _, rest = name.partition("::")
    if paths.suites().joinpath(*Path(file).parts[-2:]).is_file():
        case = rest[rest.find("[") :] if "[" in rest else rest
        return f"--pyargs pytest_longctx.suites -k {quote(case)}"
    return quote(str(Path(header.get("root", ""), name)))


_TEXT_AT: Final = 11
"""Column of the text in a row of an explanation: two spaces, a word of at most eight letters, one space."""


def explained(text: str) -> list[tuple[str, str]]:
    r"""
    Return the rows of an explanation as pairs of name and text. Lines that continue a row, such as those of a log,
    belong to its text.

    >>> explained("TT-0001 broken: it comes up\n  asked    a boot\n  seen     it dies")
    [('asked', 'a boot'), ('seen', 'it dies')]
    """
    found: list[tuple[str, str]] = []
    for line in text.splitlines()[1:]:
        if line.startswith("  ") and line[2:3].strip() and not line[_TEXT_AT - 1 : _TEXT_AT].strip():
            found.append((line[2:_TEXT_AT].strip(), line[_TEXT_AT:].strip()))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line.strip()}")
    return [(word, text) for word, text in found if text]


def rows_of(cause: Cause, header: Row) -> list[tuple[str, str]]:
    """
    Return the rows that explain a cause (asked, seen, allowed, because, do, again), from the explanation that its test
    recorded or, without one, from the reason.
    """
    lead, boot = cause.lead, cause.boot
    text = (boot.get("explained") if boot else lead and lead.get("explained")) or ""
    told = explained(text)
    if not told and lead is not None:
        told = list(_from_reason(lead))
    elif not told and boot:
        told = [("because", boot.get("said", ""))]
    if boot:
        told = [
            ("asked", f"a boot of {cause.key.deployment}"),
            ("seen", _end_of(boot)),
            ("allowed", "it serves"),
            *told,
        ]
    kept = [(word, said) for word, said in told if word != "again" and said]
    repeat = again(header, lead) if lead is not None else dict(told).get("again", "")
    return [*kept, *([("again", repeat)] if repeat else [])]


def _from_reason(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the rows that explain a cause from the reason of its verdict, for a results file without explanations."""
    lines = missed(row["why"])
    for line in lines:
        yield "seen", f"{line.measure} {line.seen}"
        yield "allowed", f"{line.measure} {line.allowed}"
    if not lines:
        yield "seen", row["why"]
    if message := row["said"] or quoted(row["why"]):
        yield "because", message


def anchor(*parts: str) -> str:
    """
    Return a link fragment for a cause that is stable between runs.

    >>> anchor("cause", "prompt count", "tiny 64k")
    'cause-prompt-count-tiny-64k'
    """
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-") for part in parts if part)


def by_reason(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Return the verdicts "out of scope" by the condition that the run did not meet, the largest group first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(reason(row["why"]), []).append(row)
    return sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))


def reason(why: str) -> str:
    """
    Return why a finding is out of scope, without the numbers that differ between findings.

    >>> reason("context: 1,000,000 + 32 tokens exceed max_model_len 65,536")
    'context: the request exceeds max_model_len 65,536'
    """
    flat = " ".join(why.split())
    return re.sub(r"^context: [0-9,]+(?: \+ [0-9,]+)? tokens exceed ", "context: the request exceeds ", flat)
