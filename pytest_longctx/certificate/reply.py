"""The answer to one request: the parts that arrived, and the way in which the request ended."""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pytest_longctx.certificate.dialects import Counts, Dialect

LETTERS_PER_TOKEN: Final = 24
"""Most letters per answer token, on average over an answer. Used if the server does not count the answer."""
_CERTAIN: Final = 4
"""Factor above the token limit that no tokenizer reaches, even if one stream event has many tokens."""

Ending = Literal["served", "refused", "limited", "redirected", "locked", "failed", "cut", "no answer"]
"""
``refused``: a 4xx. ``limited``: 429 until the end. ``locked``: 401. ``failed``: 5xx, or an error inside an answer with 200.
``cut``: the connection closed before the answer ended. ``no answer``: no status at all.
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request. Its times are seconds of a monotonic clock."""

    ending: Ending
    status: int | None = None
    streamed: bool = False
    text: str = ""
    thought: str = ""
    finish: str | None = None
    counts: Counts | None = None
    logprob: float | None = None
    error: str = ""
    body: str = field(default="", repr=False)
    """The first part of the body of a refusal or an error, with secrets masked."""
    kind: str = ""
    """Content type."""
    location: str = ""
    started_s: float = 0.0
    arrivals_s: tuple[float, ...] = ()
    """Arrival time of each chunk with text; empty without a stream."""
    finished_s: float | None = None
    """Arrival time of the finish reason."""
    ended_s: float = 0.0
    events: int = 0
    """Events of a stream."""
    hung_up: bool = False
    """Whether the client closed a stream that was far longer than its token limit."""
    closed: bool = False
    """Whether a stream announced its end by ``[DONE]`` or a finish reason."""
    error_inside: bool = False
    after_error: int = 0
    """Chunks with text after an error in a stream."""
    after_done: int = 0
    """Events with text after ``[DONE]``."""
    echoes_key: bool = False
    """Whether the answer repeats the API key of the request."""
    told_wait: bool = False
    """Whether the server said when to try again."""
    waits_s: tuple[float, ...] = ()
    """Seconds waited after each 429, as the server said or by default."""
    prompt_characters: int = 0
    answer_tokens: int = 0
    """The requested ``max_tokens``."""

    @property
    def served(self) -> bool:
        return self.ending == "served"

    @property
    def complete(self) -> bool:
        """Whether the request was served and the answer read to its end."""
        return self.served and not self.hung_up

    @property
    def said(self) -> str:
        """Status and message of the reply in one line."""
        code = "no status" if self.status is None else f"HTTP {self.status}"
        return f"{code} {' '.join(self.error.split())[:200]}".strip()

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token of a streamed answer, even if this token has no text; None if unknown."""
        if self.arrivals_s:
            return self.arrivals_s[0] - self.started_s
        only = self.streamed and self.counts is not None and self.counts.answer in (0, 1)
        return self.finished_s - self.started_s if only and self.finished_s is not None else None

    @property
    def took_s(self) -> float:
        return self.ended_s - self.started_s

    @property
    def prompt(self) -> int | None:
        return self.counts.prompt if self.counts else None


def told(text: str) -> list[int]:
    """
    Return the numbers that the message of a refused request states as the length limit.

    >>> told("maximum context length is 128,000 tokens. However, your prompt contains 131072"), told("9 tokens > 200000 maximum")
    ([128000], [200000])
    """
    number = r"((?:\d{1,3}(?:,\d{3})+|\d{3,9}))(?![\w:-]|[.,]\d)"
    after = rf"(?:maximum|\bmax\b|limit|context (?:length|window|size)|<=|at most)[^.;\d]{{0,40}}?{number}"
    before = rf"(?:>|\bwith|\bof) ?{number} (?:maximum|limit)"
    found = [match[1] for pattern in (after, before) for match in re.finditer(pattern, text, re.IGNORECASE)]
    return list(dict.fromkeys(int(each.replace(",", "")) for each in found))


def numbers(text: str) -> list[int]:
    """
    Return the numbers in the message of a refused request that may be the limit: named so, or near a word about
    lengths.

    >>> numbers("maximum context length is 128,000 tokens. Request id 4711 of 2026-11-29 failed")
    [128000]
    """
    found = []
    for match in re.finditer(r"(?<![\w.,:-])(?:\d{1,3}(?:,\d{3})+|\d{3,9})(?![\w:-]|[.,]\d)", text):
        before, after = text[max(0, match.start() - 24) : match.start()], text[match.end() : match.end() + 12]
        if re.search(r"(context|length|limit|maximum|most)[^.;]*$", before, re.IGNORECASE) or "token" in after.lower():
            found.append(int(match[0].replace(",", "")))
    return list(dict.fromkeys([*told(text), *found]))


@dataclass(slots=True)
class Arrived:
    """Collector of the parts of one answer as they arrive."""

    dialect: Dialect
    most_tokens: int
    """The requested ``max_tokens``."""
    words: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    before: str = ""
    letters: int = 0

    @property
    def endless(self) -> bool:
        """Whether the text is far longer than its limit allows, so that the server ignores the limit."""
        most = LETTERS_PER_TOKEN * self.most_tokens
        return (
            "error" not in self.found
            and self.letters > most
            and (len(self.words) > self.most_tokens or self.letters > _CERTAIN * most)
        )

    def page(self, page: Any, *, streamed: bool, now_s: float) -> None:
        """Add one answer, or one event of a stream, to the collected parts."""
        error = page.get("error") if isinstance(page, dict) else None
        if error or (isinstance(page, dict) and page.get("object") == "error"):
            self.found["error"] = message_of(error or page)
            return
        word, thought = self.dialect.words(page, streamed=streamed)
        if streamed and self.dialect.cumulative:
            word, self.before = word.removeprefix(self.before), word
        if word or thought:
            if "error" in self.found:
                self.found["after_error"] = self.found.get("after_error", 0) + 1
            self.words.append(word)
            self.letters += len(word)
            self.thoughts.append(thought)
            self.arrivals_s.append(now_s)
        for name, value in (
            ("finish", self.dialect.finished(page)),
            ("counts", self.dialect.counts(page)),
            ("logprob", self.found.get("logprob", self.dialect.first_logprob(page))),
        ):
            if value is not None:
                self.found[name] = value
                if name == "finish":
                    self.found.setdefault("finished_s", now_s)


def message_of(page: Any) -> str:
    while isinstance(page, dict):
        page = page.get("error") or page.get("message") or page.get("detail") or json.dumps(page)
    return str(page)
