"""Length checks: the longest served request by bisection, both sides of the limit, and what the limit counts."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_longctx.certificate.budget import OverBudget
from pytest_longctx.certificate.examination import SMALL, Examination, Sent
from pytest_longctx.certificate.reply import Reply, numbers, told
from pytest_longctx.certificate.results import Result, broken, holds, unmeasured
from pytest_longctx.certificate.texts import COUNTING

FIRST_TOKENS = 4096
_GROWTH = 4
_SEARCH_SHARE = 0.6
"""Share of the remaining budget that the search may use."""
ANSWER_TOKENS = 32
"""Answer length that shows whether the limit includes the answer."""
_FRAME_TOKENS = 64
"""Tokens of a chat template, which a refusal may count although usage does not."""
_HINTS = 4
"""How many numbers of a refusal are tried as the limit."""
_STRANGE = 3
"""Number of requests, neither served nor refused, after which the search ends."""


@dataclass(slots=True)
class Limit:
    """The longest prompt that was served with a one-token answer, and the shortest prompt that was not served."""

    works: Sent | None = None
    fails: Sent | None = None
    refusals: list[Sent] = field(default_factory=list)
    stopped: str = ""
    """The reason why the search ended before both sides of the limit were adjacent; empty if it did not."""
    answer_tokens: int = 1
    """Answer tokens requested at each length."""
    counts_answer: bool | None = None
    rule: str = ""
    """The unit that the limit counts, if not tokens."""
    context: int | None = None
    """The limit that a provider states: tokens of the prompt, or of prompt and answer together."""

    @property
    def longest(self) -> int | None:
        return self.works.tokens if self.works else None

    @property
    def found(self) -> bool:
        return self.works is not None and self.fails is not None and not self.stopped


def accepted(sent: Sent) -> bool:
    """Return whether the endpoint accepted a prompt of this length: the answer has text, or a token without text."""
    return accepted_reply(sent.reply)


def accepted_reply(reply: Reply) -> bool:
    """Return whether *reply* has text, or a token without text."""
    return reply.served and bool(reply.text or reply.thought or reply.finish or (reply.counts and reply.counts.answer))


def search(exam: Examination) -> Limit:
    """Return the length limit, found within the budget: the longest prompt served and the shortest not served."""
    limit = Limit(answer_tokens=max(1, exam.dialect.least_answer))
    allowed, strange = int(exam.wire.budget.left() * _SEARCH_SHARE), 0
    began = exam.wire.budget.spent
    claims = [each for each in (exam.claim, exam.listed) if each]
    tried: set[int] = set()
    step = 1
    while True:
        length = _next(exam, limit, claims, tried, step)
        if length is None:
            break
        if exam.wire.budget.spent - began + length > allowed:
            limit.stopped = f"the budget does not cover {length:,} more tokens"
            break
        tried.add(length)
        sent = exam.fill(length, stream=exam.streams)
        if accepted(sent):
            limit.works = sent
        else:
            limit.fails = sent
            limit.refusals.append(sent)
            step *= 2 if limit.works is None or limit.works.tokens < length // 2 else 1
            strange += sent.reply.ending != "refused"
            if sent.reply.ending != "refused" and (strange > _STRANGE or not alive(exam)):
                limit.stopped = f"requests were neither served nor refused: {sent.reply.said}"
                exam.facts["dead"] = not alive(exam)
                break
    return limit


def alive(exam: Examination) -> bool:
    """Return whether the server still serves a small request after a length that was neither served nor refused."""
    return exam.ask(SMALL, 4).served


def _next(exam: Examination, limit: Limit, claims: list[int], tried: set[int], step: int) -> int | None:
    """Return the next prompt length to try; None if the two sides of the limit are adjacent."""
    unit = (
        1 if exam.ruler.exact and len(exam.ruler.tails) >= exam.ruler.per_word else max(1, round(exam.ruler.per_word))
    )
    low = limit.works.tokens if limit.works else exam.ruler.least
    high = limit.fails.tokens if limit.fails else None
    if high is not None and high - low <= unit:
        return None
    said = [each for sent in limit.refusals for each in numbers(sent.reply.error) if each != sent.tokens]
    hints = [*claims, *list(dict.fromkeys(said))[:_HINTS]]
    near = [each + more for each in hints for more in (0, unit, -unit)]
    for each in near:
        if each not in tried and low < each and (high is None or each < high):
            return each
    if high is None:
        return max(FIRST_TOKENS, low * _GROWTH) if low >= FIRST_TOKENS or not hints else low * 2
    close = any(abs(high - hint) <= 64 for hint in hints)
    if close and high - step > (low + high) // 2:
        return high - step
    return (low + high) // 2


def judge(exam: Examination) -> Iterator[Result]:
    """Search the length limit, and yield the results of the length checks."""
    limit = exam.facts["limit"] = search(exam)
    yield from _claims(exam, limit)
    yield _sides(exam, limit)
    yield _below(exam, limit)
    yield _told(exam, limit)


def _claims(exam: Examination, limit: Limit) -> Iterator[Result]:
    counted = _counted(exam, limit)
    limit.context = None
    if limit.longest is not None:
        limit.context = limit.longest + (limit.answer_tokens if limit.counts_answer else 0)
    yield _claim(exam, limit)
    yield _listed(exam, limit)
    yield counted


def span(exam: Examination, limit: Limit) -> str:
    """Return the length limit and its interval in one sentence."""
    if limit.longest is None:
        return "no filler prompt was served"
    served = limit.works.reply.prompt if limit.works else None
    ruled = "" if served in (None, limit.longest) else f" (counted by the server: {served:,})"
    length = f"{limit.longest:,} {exam.ruler.unit}"
    if limit.found and exam.ruler.exact:
        return f"prompts of {length} are served{ruled}, prompts with one more token are not"
    if limit.fails is not None:
        return (
            f"prompts of {length} are served{ruled}, prompts of {limit.fails.tokens:,} are not; {exam.ruler.interval}"
        )
    return f"prompts of {length} are served{ruled}; no longer prompt was refused"


def _claim(exam: Examination, limit: Limit) -> Result:
    claim, source = (exam.claim, "--claim") if exam.claim else (exam.listed, "/v1/models")
    seen = span(exam, limit)
    counted = exam.ruler.counted
    figures: dict[str, Any] = {
        "context_tokens": limit.context if counted else None,
        "longest_prompt_tokens": limit.longest if counted else None,
        "claim_tokens": claim,
    }
    if limit.longest is None:
        return unmeasured("length-claim", "no filler prompt was served", limit.stopped, **figures)
    if claim is None:
        if limit.found:
            return holds("length-claim", f"{seen}; no context length was claimed, and the server lists none", **figures)
        return unmeasured("length-claim", limit.stopped or "no limit was found", seen, **figures)
    asked = f"a context of {claim:,} tokens, as stated by {source}"
    spare = 0 if exam.ruler.exact else exam.ruler.slack + 0.005 * claim
    room = 0 if limit.counts_answer is False else limit.answer_tokens
    if limit.longest + room + spare >= claim:
        return holds("length-claim", seen, asked, **figures)
    because = _not_below(exam, limit, claim, room - 1 + spare)
    if because:
        return unmeasured("length-claim", because, seen, **figures)
    return broken("length-claim", seen, f"at least {claim:,} tokens", asked, **figures)


def _not_below(exam: Examination, limit: Limit, claim: int, spare: float) -> str:
    """Return why a limit below *claim* may still agree with the claim; empty if it does not agree."""
    if limit.fails is None:
        return limit.stopped or "the limit was not reached"
    if not exam.ruler.counted:
        return "a filler word may have several tokens"
    missing = claim - limit.fails.tokens - spare
    if missing <= 0:
        return limit.stopped or "the limit was not reached"
    says_so = any(claim in numbers(sent.reply.error) for sent in limit.refusals)
    if missing <= min(_FRAME_TOKENS, max(0.0, exam.ruler.base)) and says_so:
        return (
            "the refusals name the claimed length; the server's limit includes chat-template tokens that `usage` does not "
            "count (see length-told)"
        )
    return ""


def _listed(exam: Examination, limit: Limit) -> Result:
    if exam.listed is None:
        return unmeasured("length-listed", "/v1/models states no context length")
    if limit.longest is None:
        return unmeasured("length-listed", "no filler prompt was served")
    asked = f"/v1/models states {exam.listed:,} tokens"
    if limit.longest > exam.listed + (0 if exam.ruler.exact else exam.ruler.slack + 0.005 * exam.listed):
        return broken("length-listed", span(exam, limit), f"at most {exam.listed:,} tokens", asked)
    if not exam.ruler.counted:
        return unmeasured("length-listed", "a filler word may have several tokens", span(exam, limit))
    if limit.fails is None:
        return unmeasured("length-listed", limit.stopped or "no longer request was sent", span(exam, limit))
    return holds("length-listed", span(exam, limit), asked)


def _short(limit: Limit, sent: Sent, answered: int) -> Result:
    """Return the result that an answer with fewer tokens than requested gives for a prompt right at the limit."""
    asked, ended = sent.reply.answer_tokens, sent.reply.finish
    seen = f"max_tokens {asked} after {limit.longest:,} tokens: {answered} answered, ended by {ended}"
    if sent.reply.finish != "length":
        return unmeasured("length-counted", "the model ended its answer itself", seen)
    # Chat completions of vLLM cut the answer to what the context leaves: it has what was answered, and no more.
    limit.counts_answer, limit.answer_tokens = True, answered
    return holds("length-counted", f"{seen}: prompt and answer share the limit", rule="prompt and answer")


def _counted(exam: Examination, limit: Limit) -> Result:
    if not limit.found or limit.longest is None:
        return unmeasured("length-counted", limit.stopped or "no limit was found")
    try:
        if seen := _by_size(exam, limit):
            exam.fields["limit_of"] = limit.rule = "the size of the request"
            return holds("length-counted", seen, rule=limit.rule)
        larger = _asking(exam, limit.longest)
        if larger is None or (accepted(larger) and larger.reply.finish != "length"):
            larger = exam.fill(limit.longest, ANSWER_TOKENS)
        if accepted(larger):
            return _with_answer(limit, larger)
        shorter = exam.fill(limit.longest + limit.answer_tokens - larger.reply.answer_tokens, ANSWER_TOKENS)
    except OverBudget as problem:
        return unmeasured("length-counted", str(problem))
    return _without_answer(limit, shorter)


def _with_answer(limit: Limit, larger: Sent) -> Result:
    """Return the result that the answer to the longest prompt gives, with more answer tokens than in the search."""
    asked = larger.reply.answer_tokens
    answered = larger.reply.counts.answer if larger.reply.counts else None
    if answered is None:
        return unmeasured("length-counted", "the answer is not counted")
    if answered < asked:
        return _short(limit, larger, answered)
    limit.counts_answer = False
    seen = f"{limit.longest:,} tokens with max_tokens {asked} are served: the limit counts the prompt alone"
    return holds("length-counted", seen, rule="prompt")


def _without_answer(limit: Limit, shorter: Sent) -> Result:
    """Return the result that a *shorter* prompt gives if the longest prompt with a longer answer is refused."""
    asked, longest = shorter.reply.answer_tokens, limit.longest or 0
    if not accepted(shorter):
        return unmeasured("length-counted", f"{shorter.tokens:,} tokens with max_tokens {asked}: {shorter.reply.said}")
    limit.counts_answer = True
    seen = (
        f"with max_tokens {asked}, prompts of {shorter.tokens:,} tokens are served, prompts of {longest:,} are not: "
        f"the limit of prompt and answer together is {longest + limit.answer_tokens:,}"
    )
    return holds("length-counted", seen, rule="prompt and max_tokens")


def _asking(exam: Examination, tokens: int) -> Sent | None:
    """
    Send a prompt of *tokens* that asks for a long answer, because models often answer filler in few words; None if the
    length is not exact.
    """
    ruler, small = exam.ruler, 2 * exam.ruler.least
    if not ruler.exact:
        return None
    tail = f"\n{COUNTING}"

    def asked(length: int, expected: int) -> Sent:
        ((role, text),) = ruler.turns(exam.rng, length)
        return Sent(ruler.made(length), exam.ask(((role, text + tail),), ANSWER_TOKENS, expected=expected))

    first = asked(small, small + len(tail))
    if first.reply.prompt is None:
        return None
    more = first.reply.prompt - first.tokens
    sent = asked(tokens - more, tokens)
    return sent if sent.reply.prompt in (None, tokens) and sent.tokens + more == tokens else None


def _by_size(exam: Examination, limit: Limit) -> str:
    """
    Return the text that the limit counts bytes, as a proxy does, because as many tokens of shorter words are served.
    Empty if that is not so, or if the refusals name a limit in tokens.
    """
    near = (limit.longest, (limit.longest or 0) + limit.answer_tokens)
    every = [number for sent in limit.refusals for number in numbers(sent.reply.error)]
    if limit.fails is None or not exam.ruler.exact or exam.ruler.per_word != 1 or any(each in near for each in every):
        return ""
    short = replace(exam.ruler, words=(" a", " I"))
    small = exam.ask(short.turns(exam.rng, 2 * short.least), 1, expected=3 * short.least)
    if small.prompt != short.made(2 * short.least):
        return ""
    reply = exam.ask(short.turns(exam.rng, limit.fails.tokens), 1, expected=limit.fails.tokens, stream=exam.streams)
    exam.sent.append(Sent(limit.fails.tokens, reply))
    if not accepted(exam.sent[-1]):
        return ""
    letters = limit.fails.reply.prompt_characters
    return (
        f"{limit.fails.tokens:,} tokens in {reply.prompt_characters:,} characters are served, "
        f"in {letters:,} characters they are not"
    )


def _sides(exam: Examination, limit: Limit) -> Result:
    if not limit.found or limit.works is None or limit.fails is None:
        return unmeasured("length-sides", limit.stopped or "no limit was found")
    try:
        # In the form of the search: a limit of bytes depends on it.
        below, above = (exam.fill(each.tokens, stream=exam.streams) for each in (limit.works, limit.fails))
    except OverBudget as problem:
        return unmeasured("length-sides", str(problem))
    seen = (
        f"{below.tokens:,} tokens: {'served' if accepted(below) else below.reply.said}; "
        f"{above.tokens:,}: {'served' if accepted(above) else above.reply.said}"
    )
    if accepted(below) and not accepted(above):
        return holds("length-sides", seen)
    if limit.stopped or below.reply.ending == "limited":
        return unmeasured("length-sides", "requests were rate-limited", seen)
    return broken(
        "length-sides", seen, "the same result as before: the shorter prompt is served, the longer one is not"
    )


def _below(exam: Examination, limit: Limit) -> Result:
    if limit.longest is None or exam.facts.get("dead"):
        return unmeasured("length-below", limit.stopped or "no filler prompt was served")
    done = {sent.tokens: sent for sent in exam.sent if accepted(sent)}
    try:
        for share in (4, 2):
            near = limit.longest // share
            if near >= exam.ruler.least and not any(0.8 * near <= tokens <= 1.25 * near for tokens in done):
                sent = exam.fill(near, stream=exam.streams)
                done[sent.tokens] = sent
    except OverBudget as problem:
        return unmeasured("length-below", str(problem))
    failed = [sent for sent in done.values() if not accepted(sent) and sent.tokens < limit.longest]
    if failed:
        seen = f"{failed[0].tokens:,} tokens: {failed[0].reply.said}"
        return broken("length-below", seen, f"served, as {limit.longest:,} tokens are")
    lengths = ", ".join(f"{tokens:,}" for tokens in sorted(done) if tokens <= limit.longest)
    return holds("length-below", f"served: {lengths} tokens")


def _told(exam: Examination, limit: Limit) -> Result:
    if not limit.found or limit.longest is None or limit.fails is None:
        return unmeasured("length-told", limit.stopped or "no limit was found")
    near = (limit.longest, limit.longest + limit.answer_tokens)
    said = limit.refusals[0].reply.said if limit.refusals else ""
    every = [number for sent in limit.refusals for number in numbers(sent.reply.error)]
    if any(each in near for each in every):
        return holds("length-told", f"the refusal names {next(each for each in every if each in near):,}")
    limits = {tuple(told(sent.reply.error)) for sent in limit.refusals}
    if unknown := _incomparable(limits, limit, exact=exam.ruler.exact):
        return unmeasured("length-told", unknown, said)
    return broken("length-told", f"{said}; measured: {limit.longest:,}", f"{near[0]:,} or {near[1]:,}")


def _incomparable(limits: set[tuple[int, ...]], limit: Limit, *, exact: bool) -> str:
    """Return why *limits*, as named in refusals, cannot be compared with the measured *limit*; empty if they can."""
    if limit.rule:
        return f"the limit is {limit.rule}"
    if limits == {()}:
        return "no refusal names a context limit"
    if len(limits) > 1 or len(next(iter(limits))) > 1:
        return "the refusals name several numbers, so it is not clear which one is the context limit"
    if limit.counts_answer is None:
        return "it is not known whether the limit counts the answer (length-counted)"
    return "" if exact else "prompt lengths are not exact on this server"


def above(exam: Examination, reply: Reply) -> bool:
    """Return whether *reply* answers a request above the length limit."""
    limit: Limit | None = exam.facts.get("limit")
    if limit is None or limit.fails is None:
        return False
    return any(each.reply is reply and each.tokens >= limit.fails.tokens for each in exam.sent)
