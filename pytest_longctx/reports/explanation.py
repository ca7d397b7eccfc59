"""
A verdict that fails a test, and a request that was not served, in the rows in which a failed boot is told.

Asked, seen, allowed, because, checked, do, again. Pure: the same evidence gives the same text, so that the terminal, JUnit XML
and annotations say the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pytest_longctx.client.exchange import ENDING_OUTCOMES, Ending, Exchange
from pytest_longctx.findings.ask import Ask
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.verdicts import Line, Verdict, Word
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import KINDS, Observation, Outcome
from pytest_longctx.units import duration

Row = tuple[str, str]

_WIDEST = 400
"""Letters of one row; the command of ``again`` is never cut."""
_MOST_MISSED = 4
_MOST_HELD = 6


@dataclass(frozen=True, slots=True)
class Setting:
    """What the text names, and neither a verdict nor an exchange knows."""

    deployment: str = ""
    remedy: str = ""
    """What the catalogue says of the failure that was recognised."""
    log: str = ""
    """Where the server's log is, if this run has it."""
    again: str = ""
    """The command that repeats the test."""


_BY_OUTCOME: Mapping[Outcome, str] = {
    "refuses": "a shorter prompt, or a deployment that admits this one (max_model_len, KV cache): the server's words say which",
    "dies": "the server's log, from its first error on",
    "runs out of memory": "the server's log, from its first error on; `longctx plan` says which term does not fit",
    "asserts": "the server's log, from its first error on",
    "fails": "the server's log: it runs, and answered this request with an error of its own",
    "disconnects": "whether the server still runs, and what lies before it: a proxy, or a limit of time or size",
    "hangs": "the server's log, from where nothing moved any more",
    "is not admitted": "a larger KV cache, or fewer requests at once: this one waited and was never scheduled",
    "overcommits": "a smaller max_model_len or a larger KV cache",
}
_BY_ENDING: Mapping[Ending, str] = {
    "deadline": "a larger deadline_s or longer [timeouts], if the server was still at work: nothing of it could be watched",
    "unfinished": "a larger deadline_s, a longer timeouts.answer_s in the deployment, or a shorter prompt",
    "not asked": "the address, LONGCTX_API_KEY, and whether the server has this endpoint",
}
_LAWS: Mapping[str, str] = {
    "prompt sent": "send what the finding asks, or judge the finding about what was sent",
    "prompt_tokens": "what the server made of the prompt: it cut it, or added to it (a BOS token, a chat template)",
    "server_prompt_tokens": "what the server made of the prompt: its counters disagree with what was sent",
    "completion_tokens": "how the server ends answers: whether it honours max_tokens, min_tokens and ignore_eos",
    "server_completion_tokens": "how the server ends answers: its counters disagree with what was asked",
    "ledger_gap_tokens": "run it where no other client uses the server: its requests move the same counters",
    "ttft_gap_s": "run it again on a machine that does nothing else; if it stays, look for what holds back the stream: a proxy",
    "cached_share": "reset_cache(), a new --longctx-seed, or prefix caching off: a cold prompt was answered from the cache",
    "peak_share": "the deployment's hardware and model: faster than the devices can compute means that less was read",
}
"""By the measure of a law's line: where to look."""
_WARM = "whether prefix caching is on: the second time, the prompt was not answered from the cache"


def verdict_text(verdict: Verdict, setting: Setting) -> str:
    """Why *verdict* fails its test."""
    finding, seen = verdict.finding, verdict.observation or Observation(None)
    wanted = None if verdict.word == "unmeasured" else False
    deciding = [] if verdict.reason else [line for line in verdict.lines if line.ok is wanted]
    return _text(
        f"{finding.id} {verdict.word}: {finding.title}",
        (
            ("asked", _asked(finding, seen, setting.deployment)),
            *_seen_and_allowed(verdict, deciding),
            ("because", "; ".join(filter(None, (_because(seen), *_changes(deciding), verdict.remark)))),
            ("checked", _checked(verdict.lines, verdict.word)),
            ("do", _do(verdict, deciding, setting)),
            ("log", setting.log),
            ("again", setting.again),
        ),
    )


def exchange_text(exchange: Exchange, seen: Observation, setting: Setting, limit: int | None = None) -> str:
    """Why *exchange* is no answer; *seen* is the same as evidence, *limit* the longest prompt and answer that are served."""
    of = f", of {setting.deployment}" if setting.deployment else ""
    came = f"{len(exchange.arrivals_s)} chunks came" if exchange.arrivals_s else "no token came"
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
            ("allowed", 'a complete answer; ask(..., unserved="return") gives the test any ending to look at'),
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
    """What to do about how *exchange* ended."""
    outcome = ENDING_OUTCOMES[exchange.ending]
    return _BY_ENDING.get(exchange.ending) or (_BY_OUTCOME.get(outcome, "") if outcome else "")


def of_finding(text: str, finding: str, word: str) -> str:
    """The rows about one verdict in all the *text* that is shown of a failed test; empty where there are none."""
    lines = iter(text.splitlines())
    headed = any(line.startswith(f"{finding} {word}: ") for line in lines)  # leaves what comes after it
    return "\n".join(takewhile(lambda line: line.startswith("  "), lines)) if headed else ""


def _text(headline: str, rows: Iterable[Row]) -> str:
    said = [(word, " ".join(text.split())) for word, text in rows if text]
    return "\n".join(
        [headline, *(f"  {word:<8} {text if word in ('again', 'log') else _cut(text, _WIDEST)}" for word, text in said)]
    )


def _one(prompt_tokens: int, output_tokens: int) -> str:
    return f"a prompt of {_count(prompt_tokens, 'token')} and {_count(output_tokens, 'answer token')}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _asked(finding: Finding, seen: Observation, deployment: str) -> str:
    """What was sent or claimed, in words."""
    of = f", of {deployment}" if deployment else ""
    if finding.on_paper:
        return f"what was published: {finding.source.document}"
    if finding.question in ("boots", "boot-fails", "linted"):
        return f"a boot{of}"
    return f"{_sent(finding.ask, seen)}{of}"


def _sent(ask: Ask, seen: Observation) -> str:
    each = _count(ask.output_tokens, "answer token")
    if ask.task is not None:
        return f"the questions of {ask.task}"
    if ask.lengths:
        return f"prompts of {', '.join(f'{length:,}' for length in ask.lengths)} tokens and {each}"
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
        yield "seen", f"{len(deciding) - _MOST_MISSED} more that are not as allowed"


def _because(seen: Observation) -> str:
    """The server's words, and the class of the failure."""
    words = " ".join(seen.said.split())
    kind = "" if seen.kind is None else f"{seen.signature or seen.kind}: {KINDS[seen.kind]}"
    return "; ".join(filter(None, (f'"{_cut(words, 280)}"' if words else "", kind)))


def _changes(deciding: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line.change for line in deciding if line.change))


def _checked(lines: Sequence[Line], word: Word) -> str:
    """What held beside it, and, of a finding that broke, what could not be seen."""
    held = [f"{line.measure} {line.seen}" for line in lines if line.ok]
    more = f" and {len(held) - _MOST_HELD} more" if len(held) > _MOST_HELD else ""
    unseen = [line.measure for line in lines if line.ok is None] if word != "unmeasured" else []
    held_said = f"as it should be: {', '.join(held[:_MOST_HELD])}{more}" if held else ""
    return "; ".join(filter(None, (held_said, f"not observed: {', '.join(unseen)}" if unseen else "")))


def _do(verdict: Verdict, deciding: Sequence[Line], setting: Setting) -> str:
    finding = verdict.finding
    file = f"findings/{finding.id}*.toml"
    if verdict.reason and finding.known:
        return f"take [known] out of {file}, and close {finding.known.issue}"
    if not deciding:
        return ""
    if verdict.word == "unmeasured":
        return "have the server report it (each measure's page says from what), or run without --longctx-strict"
    first = deciding[0].measure
    outcome = verdict.observation.outcome if verdict.observation else None
    if first in finding.bounds:
        timed = MEASURES[first].unit in ("s", "tokens/s")
        again = "run it again where nothing else runs, and `longctx compare` it with an earlier run; " if timed else ""
        return f"{again}{_if_meant(f'[bounds.{first}]', file)}"
    if first in ("outcome", "phase", "signature", "notice"):
        look = setting.remedy or (_BY_OUTCOME.get(outcome, "") if outcome else "")
        return "; ".join(filter(None, (look, _if_meant("[expect]", file))))
    return _WARM if first == "cached_share" and finding.question == "repeated" else _LAWS.get(first, "")


def _if_meant(table: str, file: str) -> str:
    return f"if that is how it is meant to be now, change {table} in {file}"


def _shorter(exchange: Exchange, limit: int | None) -> str:
    """What to send in place of a request that is longer than what is served."""
    if exchange.ending != "refused" or limit is None or exchange.sent_tokens + exchange.asked_tokens <= limit:
        return ""
    least = exchange.sent_tokens + exchange.asked_tokens
    return (
        f"a prompt of at most {max(limit - exchange.asked_tokens, 0):,} tokens, or max_model_len of at least {least:,}"
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
