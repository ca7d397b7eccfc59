"""
Explanation of a failed verdict or an unserved request, in the rows that also explain a failed boot.

The rows are: asked, seen, allowed, because, checked, do, again. The functions are pure: the same evidence gives the same
text, so the terminal, JUnit XML and annotations agree.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pytest_longctx.client.exchange import ENDING_OUTCOMES, Ending, Exchange
from pytest_longctx.findings.ask import TEXTS, Ask
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.verdicts import Line, Verdict, Word
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import KINDS, Observation, Outcome
from pytest_longctx.units import duration

Row = tuple[str, str]

_WIDEST = 400
"""Maximum width of one row in characters. The command of ``again`` is never cut."""
_MOST_MISSED = 4
_MOST_HELD = 6


@dataclass(frozen=True, slots=True)
class Setting:
    """Context for an explanation that neither a verdict nor an exchange contains."""

    deployment: str = ""
    remedy: str = ""
    """Catalogue entry of the recognised failure."""
    log: str = ""
    """Path of the server's log, if this run has one."""
    again: str = ""
    """Command that repeats the test."""
    cause: str = ""
    """The earlier test that failed for the same cause and explains it; empty for the first."""


_BY_OUTCOME: Mapping[Outcome, str] = {
    "refuses": "a shorter prompt, or a deployment that admits this one (max_model_len, KV cache), as the server's message states",
    "dies": "the server's log, from its first error on",
    "runs out of memory": "the server's log, from its first error on; `longctx plan` shows which term does not fit",
    "asserts": "the server's log, from its first error on",
    "fails": "the server's log: the server still runs and answered this request with an HTTP 5xx error",
    "disconnects": "whether the server still runs, and what is in front of it: a proxy, or a limit on time or size",
    "hangs": "the server's log, from the last recorded activity on",
    "is not admitted": "a larger KV cache, or fewer requests at once: this request waited and was never scheduled",
    "overcommits": "a smaller max_model_len or a larger KV cache",
}
_BY_ENDING: Mapping[Ending, str] = {
    "deadline": "a larger deadline_s or longer [timeouts], if the server was still at work: its progress could not be observed",
    "unfinished": "a larger deadline_s, a longer timeouts.answer_s in the deployment, or a shorter prompt",
    "not asked": "the address, LONGCTX_API_KEY, and whether the server has this endpoint",
}
_LAWS: Mapping[str, str] = {
    "prompt sent": "send the request the finding specifies, or judge a finding about the request that was sent",
    "prompt_tokens": "how the server changed the prompt: truncated, or extended (a BOS token, a chat template)",
    "miscounted_prompts": "how the server changed the prompts: truncated, or extended (a BOS token, a chat template)",
    "miscounted_answers": "how the server ends answers: whether it honours max_tokens, min_tokens and ignore_eos",
    "server_prompt_tokens": "how the server changed the prompt: its counters disagree with the tokens sent",
    "completion_tokens": "how the server ends answers: whether it honours max_tokens, min_tokens and ignore_eos",
    "server_completion_tokens": "how the server ends answers: its counters disagree with the tokens requested",
    "ledger_gap_tokens": "run the test while no other client uses the server: their requests change the same counters",
    "ttft_gap_s": "repeat the run on an idle machine; if the result stays, look for buffering of the stream, as in a proxy",
    "cached_share": "reset_cache(), a new --longctx-seed, or prefix caching off: a cold prompt was answered from the cache",
    "peak_share": "the deployment's hardware and model: a prefill above the peak means that less than the prompt was read",
}
"""Where to look, by the measure of a law's line."""
_WARM = "whether prefix caching is on: the second time, the prompt was not answered from the cache"


def verdict_text(verdict: Verdict, setting: Setting) -> str:
    """Return the explanation why *verdict* fails its test."""
    finding, seen = verdict.finding, verdict.observation or Observation(None)
    wanted = None if verdict.word == "unmeasured" else False
    deciding = [] if verdict.reason else [line for line in verdict.lines if line.ok is wanted]
    return _text(
        f"{finding.id} {verdict.word}: {finding.title}",
        (
            ("asked", _asked(finding, seen, setting.deployment)),
            *_seen_and_allowed(verdict, deciding),
            *(
                [("cause", setting.cause), ("again", setting.again)]
                if setting.cause
                else _explained(verdict, deciding, setting)
            ),
        ),
    )


def _explained(verdict: Verdict, deciding: Sequence[Line], setting: Setting) -> Iterator[Row]:
    """Yield the rows of an explanation that tests with one cause have in common."""
    seen = verdict.observation or Observation(None)
    yield from (
        ("because", "; ".join(filter(None, (_because(seen), *_changes(deciding), verdict.remark)))),
        ("checked", _checked(verdict.lines, verdict.word)),
        ("do", _do(verdict, deciding, setting)),
        ("log", setting.log),
        ("again", setting.again),
    )


def exchange_text(exchange: Exchange, seen: Observation, setting: Setting, limit: int | None = None) -> str:
    """Return why *exchange* is not a complete answer. *seen* is its observation; *limit* is the longest context served."""
    of = f", of {setting.deployment}" if setting.deployment else ""
    came = f"{len(exchange.arrivals_s)} chunks arrived" if exchange.arrivals_s else "no token arrived"
    status = f" with HTTP {exchange.refusal.status}" if exchange.refusal else ""
    health = "" if exchange.health is None else f"; its health then answered HTTP {exchange.health}"
    return _text(
        f"the request was not served: {exchange.ending}",
        (
            ("asked", f"{_one(exchange.sent_tokens, exchange.asked_tokens)}{of}"),
            (
                "seen",
                f"{exchange.ending}{status} after {duration(exchange.ended_s - exchange.started_s)}; {came}{health}",
            ),
            ("allowed", 'a complete answer; ask(..., unserved="return") returns any ending to the test'),
            ("because", _because(seen)),
            (
                "do",
                _shorter(exchange, limit) or setting.remedy or _remedy(exchange),
            ),
            ("log", setting.log),
            ("again", setting.again),
        ),
    )


def _remedy(exchange: Exchange) -> str:
    """Return the advice for the ending of *exchange*."""
    outcome = ENDING_OUTCOMES[exchange.ending]
    return _BY_ENDING.get(exchange.ending) or (_BY_OUTCOME.get(outcome, "") if outcome else "")


def of_finding(text: str, finding: str, word: str) -> str:
    """Return the rows that explain one verdict in the *text* of a failed test; empty without such rows."""
    lines = iter(text.splitlines())
    headed = any(line.startswith(f"{finding} {word}: ") for line in lines)  # leaves what comes after it
    return "\n".join(takewhile(lambda line: line.startswith("  "), lines)) if headed else ""


def _text(headline: str, rows: Iterable[Row]) -> str:
    shown = [(word, " ".join(text.split())) for word, text in rows if text]
    return "\n".join(
        [
            headline,
            *(f"  {word:<8} {text if word in ('again', 'log') else _cut(text, _WIDEST)}" for word, text in shown),
        ]
    )


def _one(prompt_tokens: int, output_tokens: int) -> str:
    return f"a prompt of {_count(prompt_tokens, 'token')} and {_count(output_tokens, 'answer token')}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _asked(finding: Finding, seen: Observation, deployment: str) -> str:
    """Return what was asked: the request that was sent, or the published claim."""
    of = f", of {deployment}" if deployment else ""
    if finding.on_paper:
        return f"published claim: {finding.source.document}"
    if finding.question in ("boots", "boot-fails", "linted"):
        return f"a boot{of}"
    if finding.question == "drift":
        ask = finding.ask
        texts = f"{ask.requests or TEXTS} texts of {ask.prompt_tokens:,} tokens, read {2 * ask.runs} times"
        return f"the log-probabilities of {texts}{of}, against {ask.against}"
    return f"{_sent(finding.ask, seen)}{of}"


def _sent(ask: Ask, seen: Observation) -> str:
    each = _count(ask.output_tokens, "answer token")
    if ask.lengths:
        task = f" of RULER's {ask.task}, {ask.runs:,} of each length," if ask.task is not None else ""
        return f"prompts{task} of {', '.join(f'{length:,}' for length in ask.lengths)} tokens and {each}"
    if ask.task is not None:
        return f"the questions of {ask.task}"
    if ask.requests is not None and ask.prompt_tokens is not None:
        pace = f"{ask.rate_per_s:g} a second" if ask.rate_per_s is not None else f"{ask.concurrency or 1:,} at once"
        return f"{ask.requests:,} prompts of {ask.prompt_tokens:,} tokens, {pace}, and {each} for each"
    if ask.over_limit_tokens is not None:
        over = f"{abs(ask.over_limit_tokens):,} {'above' if ask.over_limit_tokens > 0 else 'below'}"
        sent = "" if seen.sent_tokens is None else f" ({_count(seen.sent_tokens, 'token')} were sent)"
        return f"a prompt{sent} and {each}, together {over if ask.over_limit_tokens else 'exactly'} max_model_len"
    length = ask.prompt_tokens or seen.sent_tokens
    if length is None:
        return f"prompts of several lengths and {each}"
    turns = "" if ask.turns is None else f", then {ask.turns - 1} more turns"
    return f"{_one(length, ask.output_tokens)}{turns}"


def _seen_and_allowed(verdict: Verdict, deciding: Sequence[Line]) -> Iterator[Row]:
    if verdict.reason:
        yield "seen", verdict.reason
    for line in deciding[:_MOST_MISSED]:
        bound = verdict.finding.bounds.get(line.measure)
        since = f", because {bound.because}" if bound and bound.because else ""
        yield "seen", f"{line.measure} {line.seen}"
        yield "allowed", f"{line.measure} {line.wanted}{since}"
    if len(deciding) > _MOST_MISSED:
        yield "seen", f"{len(deciding) - _MOST_MISSED} more outside their bounds"


def _because(seen: Observation) -> str:
    """Return the cause of a failure: the server's message and the class of the failure."""
    message = " ".join(seen.said.split())
    kind = "" if seen.kind is None else f"{seen.signature or seen.kind}: {KINDS[seen.kind]}"
    return "; ".join(filter(None, (f'"{_cut(message, 280)}"' if message else "", kind)))


def _changes(deciding: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line.change for line in deciding if line.change))


def _checked(lines: Sequence[Line], word: Word) -> str:
    """Return what was checked: the figures within bounds and, for a broken finding, the figures that were not observed."""
    held = [f"{line.measure} {line.seen}" for line in lines if line.ok]
    more = f" and {len(held) - _MOST_HELD} more" if len(held) > _MOST_HELD else ""
    unseen = [line.measure for line in lines if line.ok is None] if word != "unmeasured" else []
    held_said = f"within bounds: {', '.join(held[:_MOST_HELD])}{more}" if held else ""
    return "; ".join(filter(None, (held_said, f"not observed: {', '.join(unseen)}" if unseen else "")))


def _do(verdict: Verdict, deciding: Sequence[Line], setting: Setting) -> str:
    finding = verdict.finding
    file = f"findings/{finding.id}*.toml"
    if verdict.reason and finding.known:
        return f"remove [known] from {file}, and close {finding.known.issue}"
    if not deciding:
        return ""
    if verdict.word == "unmeasured":
        return "make the server report the figure (the measures page names its source), or run without --longctx-strict"
    first = deciding[0].measure
    outcome = verdict.observation.outcome if verdict.observation else None
    if first in finding.bounds:
        timed = MEASURES[first].unit in ("s", "tokens/s")
        again = (
            "repeat the run on an idle machine and compare it with an earlier run (`longctx compare`); "
            if timed
            else ""
        )
        law = f"{_LAWS[first]}; " if first in _LAWS else ""
        return f"{law}{again}{_if_meant(f'[bounds.{first}]', file)}"
    if first in ("outcome", "phase", "signature", "notice"):
        look = setting.remedy or (_BY_OUTCOME.get(outcome, "") if outcome else "")
        return "; ".join(filter(None, (look, _if_meant("[expect]", file))))
    return _WARM if first == "cached_share" and finding.question == "repeated" else _LAWS.get(first, "")


def _if_meant(table: str, file: str) -> str:
    return f"if the new behaviour is intended, change {table} in {file}"


def _shorter(exchange: Exchange, limit: int | None) -> str:
    """Return advice on the length to send instead of a request that exceeds the limit."""
    if exchange.ending != "refused" or limit is None or exchange.sent_tokens + exchange.asked_tokens <= limit:
        return ""
    least = exchange.sent_tokens + exchange.asked_tokens
    return (
        f"a prompt of at most {max(limit - exchange.asked_tokens, 0):,} tokens, or max_model_len of at least {least:,}"
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
