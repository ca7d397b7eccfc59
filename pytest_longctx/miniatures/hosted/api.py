"""A correct hosted API in miniature: key, model, parameters, context limit, answer, counts."""

import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

from pytest_longctx.miniatures.hosted import reading
from pytest_longctx.miniatures.hosted.calls import (
    Answer,
    Call,
    Event,
    Message,
    Post,
    Reply,
    RequestError,
    Stream,
    Usage,
    Whole,
)
from pytest_longctx.miniatures.hosted.dialects import DIALECTS, Dialect
from pytest_longctx.miniatures.hosted.latency import Latency
from pytest_longctx.miniatures.hosted.prefix_cache import PrefixCache
from pytest_longctx.miniatures.hosted.rate_limit import RateLimit
from pytest_longctx.miniatures.hosted.refusals import REFUSALS, OverLength, error
from pytest_longctx.miniatures.hosted.tokens import Ids, deltas, encode, special

DEFAULT_ANSWER_TOKENS: Final = 1024
"""Longest answer if the client sets no maximum."""
DIALECT_NAMES: Final = ("chat", "text", "ids", "responses", "generate")
"""The dialects of a miniature; ``text`` and ``ids`` are the two forms of a prompt of completions."""


@dataclass(frozen=True, slots=True)
class Received:
    """
    One request that arrived, for a test to count. A field is None if the request was refused before its value was
    known.
    """

    path: str
    body_bytes: int
    prompt_tokens: int | None
    max_tokens: int | None
    arrived_s: float


@dataclass
class HostedApi:
    """A hosted API without a fault."""

    model: str = "miniature"
    limit: int = 131_072
    """Context limit in tokens, of the prompt after its template and of the requested answer."""
    key: str | None = None
    """Key that clients need; None if none is needed."""
    dialects: tuple[str, ...] = ("chat",)
    refusal: str = "openai"
    """Wording of the refusal of a prompt that is too long: a name in `REFUSALS`."""
    counts_answer: bool = True
    """
    Whether the limit applies to prompt and answer together. If not, it applies to the prompt, and the answer has its
    own.
    """
    shortens: bool = False
    """
    Whether an answer that would exceed the limit is shortened, as in vLLM's chat completions. If not, it is refused.
    """
    wordless: bool = False
    """Whether the model ends its answer at once if the prompt has no question: one token without text."""
    answer_limit: int = 1 << 17
    """Highest ``max_tokens``. More is refused."""
    listed: int | None = None
    """Length that ``/v1/models`` lists in *listing_field*; None if it lists none."""
    listing_field: str = "context_length"
    """
    Field of the listed length. ``n_ctx`` is in ``meta``, with the longer context of the training, as in llama.cpp's
    server.
    """
    reports_cached: bool = True
    """Whether usage has cached tokens."""
    tokens_per_event: int = 1
    comments: bool = False
    """Whether a stream begins with a comment, as OpenRouter's do while a request waits."""
    counts_reused: bool = True
    """Whether the counter in ``/metrics`` includes cached tokens. llama.cpp's server omits them."""
    pages: bool = False
    """Whether ``/health`` and ``/metrics`` exist."""
    cache: PrefixCache = field(default_factory=PrefixCache)
    latency: Latency = field(default_factory=Latency)
    rate_limit: RateLimit | None = None
    seed: int = 0
    received: list[Received] = field(default_factory=list)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    answered: int = 0
    lock: Lock = field(default_factory=Lock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # One request, step by step. A fault overrides one step.

    def post(self, post: Post) -> Reply:
        """Return the hosted API's reply to one POST request."""
        call: Call | None = None
        try:
            dialect = self.route(post.path)
            self.admit(post)
            call = self.parse(dialect, post)
            return self.complete(dialect, call)
        except RequestError as refused:
            body = error(refused.message, param=refused.param, code=refused.code)
            return Whole(refused.status, body, dict(refused.headers))
        finally:
            self.record(post, call)

    def record(self, post: Post, call: Call | None) -> None:
        """Record that *post* arrived at the hosted API."""
        sizes = (call.prompt_tokens, call.max_tokens) if call else (None, None)
        row = Received(post.path, len(post.body), *sizes, time.monotonic())
        with self.lock:
            self.received.append(row)

    def route(self, path: str) -> Dialect:
        """Return the dialect of the hosted API at *path*."""
        for name in self.dialects:
            dialect = DIALECTS["completions" if name in {"text", "ids"} else name]
            if dialect.path == path:
                return dialect
        raise RequestError(f"Invalid URL (POST {path})", status=404)

    def admit(self, post: Post) -> None:
        """Refuse a request to the hosted API with a wrong API key, or above the rate limit."""
        if not self.knows(post.headers.get("authorization", "")):
            raise RequestError("Incorrect API key provided.", status=401, code="invalid_api_key")
        wait_s = self.rate_limit.take() if self.rate_limit else None
        if wait_s is not None:
            text = f"Rate limit reached for {self.model}. Please try again in {wait_s:.3f}s."
            raise RequestError(text, status=429, code="rate_limit_exceeded", headers=self.retry_headers(wait_s))

    def knows(self, authorization: str) -> bool:
        """Return whether *authorization* has the API key of a customer."""
        return self.key is None or authorization == f"Bearer {self.key}"

    def retry_headers(self, wait_s: float) -> dict[str, str]:
        """Return the hosted API's headers of a 429 response."""
        return {"Retry-After": str(math.ceil(wait_s))}

    def parse(self, dialect: Dialect, post: Post) -> Call:
        """Return the call in the body of a request to the hosted API, and refuse anything that the API does not serve."""
        try:
            body = json.loads(post.body)
        except ValueError:
            raise RequestError("We could not parse the JSON body of your request.") from None
        if not isinstance(body, dict):
            raise RequestError("The body of your request is not a JSON object.")
        if dialect.path.startswith("/v1/") and not self.serves(body.get("model")):
            text = f"The model `{body.get('model')}` does not exist or you do not have access to it."
            raise RequestError(text, "model", 404, "model_not_found")
        call = self.parsed(dialect, body)
        kinds = {"ids" if not message.role and not message.text else "text" for message in call.messages}
        if call.dialect == "completions" and not kinds & set(self.dialects):
            raise RequestError(f"Invalid 'prompt': {kinds.pop()} prompts are not served.", "prompt")
        if call.max_tokens is not None and call.max_tokens > self.answer_limit:
            supported = f"This model supports at most {self.answer_limit} completion tokens"
            raise RequestError(f"max_tokens is too large: {call.max_tokens}. {supported}.", "max_tokens")
        return call

    def serves(self, model: Any) -> bool:
        """Return whether *model* is the name of the model that the hosted API serves."""
        return bool(model == self.model)

    def parsed(self, dialect: Dialect, body: dict[str, Any]) -> Call:
        """Return *body* as a call of the hosted API."""
        return dialect.parse(body)

    def complete(self, dialect: Dialect, call: Call) -> Reply:
        """Return the hosted API's reply to *call*: a refusal of its length, a whole answer or a stream."""
        sent = self.rendered(call.messages)
        call.prompt_tokens = len(sent)
        if over := self.over_length(call, sent):
            return self.too_long(call, over)
        kept = self.rendered(self.read(call.messages))
        cached = self.cached(call, kept)
        answer = self.generated(call, kept, cached)
        usage = self.usage(call, sent, kept, answer, cached)
        with self.lock:
            self.answered += 1
            self.prompt_tokens += len(sent) - (0 if self.counts_reused else cached)
            self.generated_tokens += answer.tokens
        number = f"{'chatcmpl' if call.dialect == 'chat' else call.dialect}-{next(self.numbers)}"
        headers = {"x-request-id": f"req_{number}"}
        if call.stream:
            return Stream(self.paced(self.events(dialect, call, number, answer, usage), len(kept) - cached), headers)
        self.latency.before_first_token(len(kept) - cached)
        self.latency.after_tokens(answer.tokens)
        return Whole(200, self.whole(dialect, call, number, answer, usage), headers)

    # What a fault may change.

    def rendered(self, messages: tuple[Message, ...]) -> Ids:
        """Return the prompt as the hosted model sees it: five template tokens for each message, and two before the answer."""
        ids: Ids = encode("")
        for message in messages:
            if message.role:
                ids.extend((special("<|start|>"), special(f"<|{message.role}|>"), *encode("\n")))
                ids.extend(message.ids)
                ids.extend((special("<|end|>"), *encode("\n")))
            else:
                ids.extend(message.ids)
        if messages[-1].role:
            ids.extend((special("<|start|>"), special("<|assistant|>")))
        return ids

    def over_length(self, call: Call, sent: Ids) -> OverLength | None:
        """
        Return by how much *call* exceeds the context limit; None if it does not. At least one token must remain for the
        answer.
        """
        asked = call.max_tokens if self.counts_answer and not self.shortens else 0
        if len(sent) + max(asked or 0, 1 if self.counts_answer else 0) <= self.limit:
            return None
        return OverLength(self.limit, len(sent), asked, self.model)

    def too_long(self, call: Call, over: OverLength) -> Reply:
        """Return the hosted API's refusal of a prompt above the context limit."""
        status, body = REFUSALS[self.refusal](over)
        return Whole(status, body)

    def read(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the messages that the hosted model reads."""
        return messages

    def cached(self, call: Call, kept: Ids) -> int:
        """Return the number of prompt tokens that are in the hosted API's cache, and add the prompt to it."""
        return self.cache.read(kept, call.salt)

    def maximum(self, call: Call, kept: Ids) -> int:
        """Return the longest answer of the hosted API to *call* in tokens."""
        room = self.limit - len(kept) if self.counts_answer else self.answer_limit
        return min(call.max_tokens or DEFAULT_ANSWER_TOKENS, max(room, 1))

    def generated(self, call: Call, kept: Ids, cached: int) -> Answer:
        """Return the hosted model's answer to a prompt of which it read *kept*. The token that ends an answer counts."""
        maximum = self.maximum(call, kept)
        if self.wordless and not reading.asks(kept):
            return Answer([], 1, "stop")
        salt = "" if call.temperature == 0 else f"{call.temperature}/{self.sample_seed(call)}"
        said = reading.spoken(kept, salt, maximum, endless=call.ignore_eos)
        cut = len(said) >= maximum
        parts = deltas(said[:maximum])
        answer = Answer(parts, len(parts) if cut else len(parts) + 1, "length" if cut else "stop")
        return self.stopped(answer, call.stop)

    def sample_seed(self, call: Call) -> int:
        """Return the seed of a sampled answer: the client's seed if given, otherwise a new one."""
        return call.seed if call.seed is not None else self.seed + next(self.numbers)

    def stopped(self, answer: Answer, stops: tuple[str, ...]) -> Answer:
        """
        Return the hosted model's *answer*, cut before the first of *stops*. Tokens of the stop sequence count as
        generated.
        """
        text = answer.text
        end, stop = min(((at, stop) for stop in stops if (at := text.find(stop)) >= 0), default=(None, ""))
        if end is None:
            return answer
        parts, length, tokens = [], 0, 0
        for part in answer.parts:
            if length >= end + len(stop):
                break
            parts.append(part[: max(0, end - length)])
            length, tokens = length + len(part), tokens + 1
        return Answer([part for part in parts if part], tokens, "stop")

    def usage(self, call: Call, sent: Ids, kept: Ids, answer: Answer, cached: int) -> Usage | None:
        """Return the token counts that the hosted API reports for *call*; None if it reports none."""
        return Usage(len(sent), answer.tokens, cached if self.reports_cached else None)

    def whole(self, dialect: Dialect, call: Call, number: str, answer: Answer, usage: Usage | None) -> Any:
        """Return the body of a hosted API's answer that is not streamed."""
        return dialect.whole(call, number, answer, usage)

    def events(self, dialect: Dialect, call: Call, number: str, answer: Answer, usage: Usage | None) -> Iterator[Event]:
        """Yield the events of a hosted API's streamed answer."""
        if self.comments:
            yield Event(None, "PROCESSING")
        size = self.tokens_per_event
        grouped = ["".join(answer.parts[at : at + size]) for at in range(0, len(answer.parts), size)]
        yield from dialect.events(call, number, Answer(grouped, answer.tokens, answer.finish), usage)

    def paced(self, events: Iterator[Event], uncached: int) -> Iterator[Event]:
        """Yield the stream's *events* at the speed of the hosted API."""
        self.latency.before_first_token(uncached)
        for event in events:
            yield event
            self.latency.after_tokens(self.tokens_per_event)

    # Pages.

    def listing(self) -> dict[str, Any]:
        """Return the hosted API's page of ``/v1/models``."""
        row: dict[str, Any] = {"id": self.model, "object": "model", "created": 1_780_000_000, "owned_by": "miniature"}
        if self.listed is not None and self.listing_field == "n_ctx":
            row["meta"] = {"n_ctx": self.listed, "n_ctx_train": 4 * self.listed}
        elif self.listed is not None:
            row[self.listing_field] = self.listed
        return {"object": "list", "data": [row]}

    def metrics(self) -> str:
        """Return the hosted API's page of ``/metrics``, with vLLM's names."""
        rows = {
            "vllm:prompt_tokens_total": self.prompt_tokens,
            "vllm:generation_tokens_total": self.generated_tokens,
            "vllm:request_success_total": self.answered,
            "vllm:num_requests_running": 0,
            "vllm:num_requests_waiting": 0,
        }
        return "".join(f'{name}{{engine="0",model_name="{self.model}"}} {value}\n' for name, value in rows.items())

    def get(self, post: Post) -> Reply:
        """Return the hosted API's reply to one GET request. The pages outside ``/v1`` need no key."""
        if self.pages and post.path == "/health":
            return Whole(200, "")
        if self.pages and post.path == "/metrics":
            return Whole(200, self.metrics(), kind="text/plain")
        if not self.knows(post.headers.get("authorization", "")):
            return Whole(401, error("Incorrect API key provided.", code="invalid_api_key"))
        if post.path == "/v1/models":
            return Whole(200, self.listing())
        return Whole(404, error(f"Invalid URL (GET {post.path})"))
