"""A server's scores of one text: the most probable tokens at each position, and the text's own token."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pytest_longctx.client.json_values import json_of

TOP_TOKENS: Final = 20
"""
Number of log-probabilities requested at each position: the most that vLLM returns by default (``--max-logprobs``).
"""
_WHOLE: Final = 1.01
"""Highest valid sum of an answer's probabilities. Log-probabilities rounded to BF16 may sum to 1.004."""

Array = np.ndarray[Any, np.dtype[Any]]


class UnscoredError(ValueError):
    """An answer lacks the requested log-probabilities. The message says what the answer has instead."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Log-probabilities (natural logarithms) at each position of a text except the first, which has no prediction."""

    ids: Array
    """The most probable tokens at each position, most probable first. The shape is positions by `TOP_TOKENS`."""
    logprobs: Array
    """Log-probabilities of the most probable tokens."""
    said_ids: Array
    """The text's own token at each position."""
    said: Array
    """Log-probability of the text's own token, which may be far below those of the most probable tokens."""

    @property
    def positions(self) -> int:
        """Number of positions with scores."""
        return len(self.said)

    @property
    def argmax(self) -> Array:
        """The most probable token at each position."""
        return self.ids[:, 0]


def of_vllm(page: bytes, sent: Array) -> Scores:
    """
    Return the scores in vLLM's answer to a completion with ``prompt_logprobs`` for the token ids *sent*.

    Raises `UnscoredError`.
    """
    rows = _at(json_of(page), "choices", 0, "prompt_logprobs")
    _check_count(rows, sent)
    tables = []
    for row, token in zip(rows[1:], sent[1:].tolist(), strict=True):
        known = {int(name): float(each["logprob"]) for name, each in row.items()}
        tables.append((known, token))
    return _scores(tables)


def of_sglang(page: bytes, sent: Array) -> Scores:
    """
    Return the scores in SGLang's answer to ``/generate`` with ``return_logprob`` for the token ids *sent*.

    Raises `UnscoredError`.
    """
    told = _at(json_of(page), "meta_info")
    said, tops = told.get("input_token_logprobs"), told.get("input_top_logprobs")
    _check_count(said, sent)
    _check_count(tops, sent)
    tables = []
    for one, top, token in zip(said[1:], tops[1:], sent[1:].tolist(), strict=True):
        known = {int(each[1]): float(each[0]) for each in top}
        if int(one[1]) != token:
            raise UnscoredError(f"the answer scores token {one[1]} where {token} was sent")
        tables.append(({**known, token: float(one[0])}, token))
    return _scores(tables)


def _at(page: Any, *path: Any) -> Any:
    """Return the part of a *page* of scores at *path*. Raises `UnscoredError`."""
    for step in path:
        there = isinstance(page, list | dict) and (step in page if isinstance(page, dict) else len(page) > step)
        if not there:
            raise UnscoredError(f"the answer has no {'.'.join(map(str, path))}")
        page = page[step]
    return page


def _check_count(rows: object, sent: Array) -> None:
    if not isinstance(rows, list) or len(rows) != len(sent):
        found = f"{len(rows):,}" if isinstance(rows, list) else "no"
        raise UnscoredError(f"the answer has the log-probabilities of {found} tokens; {len(sent):,} tokens were sent")


def _scores(tables: list[tuple[dict[int, float], int]]) -> Scores:
    """Return the scores from *tables*, which have the known log-probabilities and the text's token at each position."""
    count = len(tables)
    ids = np.full((count, TOP_TOKENS), -1, dtype=np.int32)
    logprobs = np.full((count, TOP_TOKENS), -np.inf, dtype=np.float32)
    said_ids, said = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.float32)
    for at, (known, token) in enumerate(tables):
        if token not in known or len(known) < TOP_TOKENS:
            raise UnscoredError(
                f"position {at + 1:,} has {len(known)} log-probabilities; requested were {TOP_TOKENS}, and that of token {token}"
            )
        best = sorted(known.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_TOKENS]
        ids[at], logprobs[at] = [name for name, _ in best], [value for _, value in best]
        said_ids[at], said[at] = token, known[token]
    found = Scores(ids, logprobs, said_ids, said)
    total = np.exp(found.logprobs.astype(np.float64)).sum(axis=1)
    if count and not total.max() <= _WHOLE:
        raise UnscoredError(f"the probabilities of position {int(total.argmax()) + 1:,} sum to {total.max():.3g}")
    return found
