"""Prompt log-probabilities of a miniature, from a trigram model, in the format of vLLM or SGLang."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

CANDIDATES: Final = 40
"""Tokens with a probability besides the prompt's own."""
_SPREAD: Final = 3.0
"""Standard deviation of a logit."""
_IDS: Final = 30_000


@dataclass(frozen=True, slots=True)
class Predictor:
    """The miniature's model, whose logits depend on the two tokens before a position and on the injected errors."""

    noise: float = 1e-4
    """Standard deviation of the random part of a logit in each request, as by rounding."""
    error: float = 0.0
    """Standard deviation of the error of a logit that is the same in every request, as with a coarse KV cache."""
    seed: int = 0

    def predictions(self, ids: Sequence[int]) -> list[dict[int, float]]:
        """Return the log-probabilities at each position of *ids* except the first, with the prompt's own token included."""
        changing = random.Random()
        return [self._at(ids, at, changing) for at in range(1, len(ids))]

    def _at(self, ids: Sequence[int], at: int, changing: random.Random) -> dict[int, float]:
        context = f"{ids[at - 1]} {ids[max(at - 2, 0)]}"
        draw, wrong = random.Random(f"{self.seed} {context}"), random.Random(f"wrong {at} {context}")
        logits = {draw.randrange(_IDS): draw.gauss(0, _SPREAD) for _ in range(CANDIDATES)}
        own = random.Random(f"{context} {ids[at]}").gauss(0, _SPREAD)
        logits.setdefault(ids[at], own)
        spoilt = {
            name: logit + wrong.gauss(0, 1) * self.error + changing.gauss(0, 1) * self.noise
            for name, logit in logits.items()
        }
        whole = math.log(sum(map(math.exp, spoilt.values())))
        return {name: logit - whole for name, logit in spoilt.items()}


def vllm_page(predictor: Predictor, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the miniature's answer to a completion with ``prompt_logprobs``, in vLLM's format."""
    rows: list[dict[str, Any] | None] = [None]
    ids = body["prompt"]
    for token, known in zip(ids[1:], predictor.predictions(ids), strict=True):
        ranked = sorted(known, key=lambda name: -known[name])
        named = dict.fromkeys([token, *ranked[: body["prompt_logprobs"]]])
        rows.append({str(name): {"logprob": known[name], "rank": 1 + ranked.index(name)} for name in named})
    return {"choices": [{"index": 0, "text": " w0", "prompt_logprobs": rows}]}


def sglang_page(predictor: Predictor, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the miniature's answer to ``/generate`` with ``return_logprob``, in SGLang's format."""
    ids = body["input_ids"]
    said: list[list[Any]] = [[None, ids[0], None]]
    tops: list[list[list[Any]] | None] = [None]
    for token, known in zip(ids[1:], predictor.predictions(ids), strict=True):
        ranked = sorted(known, key=lambda name: -known[name])[: body["top_logprobs_num"]]
        said.append([known[token], token, None])
        tops.append([[known[name], name, None] for name in ranked])
    return {"text": " w0", "meta_info": {"input_token_logprobs": said, "input_top_logprobs": tops}}
