"""Adapter for ``vllm bench serve``, the benchmark that comes with vLLM."""

import json
from http import HTTPStatus
from itertools import accumulate
from typing import Any

from pytest_longctx.backends import Backend
from pytest_longctx.backends.environments import Installable
from pytest_longctx.backends.vllm import VllmCpu
from pytest_longctx.client.adapters import LoadTool, ToolRun, failed
from pytest_longctx.client.exchange import Exchange, Usage
from pytest_longctx.client.load import Load

_REPORT = "report.json"
# Run the module, not the `vllm` script: the CPU build ships a script that cannot find its own metadata.
_MAIN = (
    "import argparse, vllm.benchmarks.serve as serve; parser = argparse.ArgumentParser(); "
    "serve.add_cli_args(parser); serve.main(parser.parse_args())"
)
_STATUS = {status.phrase: status.value for status in HTTPStatus}


class VllmBench(LoadTool):
    """
    Adapter for ``vllm bench serve``, which defines TTFT, TPOT and gaps as this package does and uses the server's token
    counts.

    Versions up to about 0.11 send the first prompt once before the load, so one request of the load hits the prefix
    cache.
    """

    name = "vllm-bench"
    package = "vllm"
    # It sends detokenised text, which may tokenise to another number of tokens, and does not report the intended number.
    left_out = frozenset({"miscounted_prompts"})

    def owner(self, backend: Backend) -> Installable:
        return backend if backend.package == self.package else VllmCpu()

    def argv(self, errand: ToolRun, python: str) -> tuple[str, ...]:
        ask = errand.ask
        return (
            *(python, "-c", _MAIN, "--backend", "openai", "--base-url", errand.server.url),
            *("--model", errand.server.model, "--tokenizer", errand.tokenizer),
            *("--dataset-name", "random", "--random-input-len", str(ask.prompt_tokens)),
            *("--random-output-len", str(ask.output_tokens), "--num-prompts", str(ask.requests)),
            *("--max-concurrency", str(ask.concurrency), "--seed", str(errand.seed)),
            *("--ignore-eos", "--temperature", "0", "--disable-tqdm"),
            *("--save-result", "--save-detailed", "--result-dir", str(errand.folder), "--result-filename", _REPORT),
        )

    def read(self, errand: ToolRun) -> Load:
        found = json.loads((errand.folder / _REPORT).read_text(encoding="utf-8"))
        asked = errand.ask.output_tokens
        rows = ("errors", "ttfts", "itls", "input_lens", "output_lens")
        exchanges = [_exchange(asked, *row) for row in zip(*(found[name] for name in rows), strict=True)]
        # Only newer versions report when each request began; all report the total duration.
        return Load(tuple(exchanges), duration_s=found["duration"])


def _exchange(asked: int, error: str, ttft_s: float, gaps_s: list[float], prompt: int, answer: int) -> Exchange:
    if error or not answer:
        return failed(asked, 0.0, _STATUS.get(error), error)
    arrivals_s: Any = tuple(accumulate((ttft_s, *gaps_s)))
    return Exchange(prompt, asked, 0.0, "complete", arrivals_s[-1], arrivals_s=arrivals_s, usage=Usage(prompt, answer))
