"""Adapter for AIPerf, https://github.com/ai-dynamo/aiperf."""

import json
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from pytest_longctx.client.adapters import LoadTool, ToolRun, blind_to_empty_tokens, failed
from pytest_longctx.client.exchange import Exchange, Usage
from pytest_longctx.client.load import Load

_RECORDS = "profile_export.jsonl"


class AIPerf(LoadTool):
    """
    Adapter that reads AIPerf's report by record. AIPerf's inter-token latency is our TPOT, its inter-chunk latency our
    gaps.

    A flag makes it take token counts from the server's usage record; by default it counts with its own tokenizer.
    """

    name = "aiperf"
    package = "aiperf"
    distributions = ("aiperf",)
    install = ("aiperf==0.13.0",)
    # It sends detokenised text, which may tokenise to another number of tokens.
    left_out = frozenset({"miscounted_prompts"})

    def argv(self, errand: ToolRun, python: str) -> tuple[str, ...]:
        ask = errand.ask
        body = {**errand.server.body, "temperature": 0}
        return (
            *(python, "-m", "aiperf", "profile", "--url", errand.server.url, "--endpoint-type", "completions"),
            *("--model", errand.server.model, "--tokenizer", errand.tokenizer, "--streaming"),
            *("--prompt-corpus", "random", "--isl", str(ask.prompt_tokens), "--isl-stddev", "0"),
            *("--osl", str(ask.output_tokens), "--osl-stddev", "0"),
            # As many distinct prompts as requests: with fewer, repeated prompts would come from the prefix cache.
            *("--num-dataset-entries", str(ask.requests), "--request-count", str(ask.requests)),
            *("--concurrency", str(ask.concurrency), "--random-seed", str(errand.seed)),
            *("--use-server-token-count", "--use-legacy-max-tokens", "--extra-inputs", json.dumps(body)),
            *("--ui", "none", "--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", str(errand.folder)),
            *(("--api-key", errand.api_key) if errand.api_key else ()),
        )

    def read(self, errand: ToolRun) -> Load:
        lines = (errand.folder / _RECORDS).read_text(encoding="utf-8").splitlines()
        exchanges = [_exchange(errand.ask.output_tokens, json.loads(line)) for line in lines]
        return Load(tuple(exchanges), left_out=blind_to_empty_tokens(errand))


def _exchange(asked: int, record: Mapping[str, Any]) -> Exchange:
    about, figures, error = record["metadata"], record["metrics"], record.get("error")
    started_s = about["request_start_ns"] / 1e9
    if error:
        return failed(asked, started_s, error.get("code"), str(error.get("message") or error.get("type")))
    gaps_ms = figures.get("inter_chunk_latency", {}).get("value", ())
    first_ms = figures["time_to_first_token"]["value"]
    prompt, answer = figures["usage_prompt_tokens"]["value"], figures["usage_completion_tokens"]["value"]
    return Exchange(
        sent_tokens=prompt,
        asked_tokens=asked,
        started_s=started_s,
        ending="complete",
        ended_s=about["request_end_ns"] / 1e9,
        arrivals_s=tuple(started_s + stamp / 1000 for stamp in accumulate((first_ms, *gaps_ms))),
        usage=Usage(prompt, answer),
    )
