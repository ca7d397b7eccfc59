"""Adapter for GuideLLM, https://github.com/vllm-project/guidellm."""

import json
from collections.abc import Mapping
from typing import Any

from pytest_longctx.client.adapters import LoadTool, ToolRun, blind_to_empty_tokens, failed, status_in
from pytest_longctx.client.exchange import Exchange, Usage
from pytest_longctx.client.load import Load

_REPORT = "report.json"


class GuideLLM(LoadTool):
    """
    Adapter that reads GuideLLM's report by request, because GuideLLM rounds percentiles to steps and weights
    "inter-token latency" by tokens.

    Its inter-token latency of one request is our TPOT. Its "time per output token" includes the first token and is not
    used. GuideLLM uses the wall clock, which may be adjusted during a run.
    """

    name = "guidellm"
    package = "guidellm"
    distributions = ("guidellm",)
    install = ("guidellm==0.8.1",)
    # It stamps only the first and the last chunk of an answer; its prompts are sentences, cut to length.
    left_out = frozenset({"miscounted_prompts", "itl_mean_s", "itl_p50_s", "itl_p90_s", "itl_p99_s"})

    def argv(self, errand: ToolRun, python: str) -> tuple[str, ...]:
        ask = errand.ask
        server: dict[str, Any] = {
            "kind": "openai_http",
            "target": errand.server.url,
            "model": errand.server.model,
            "request_format": "/v1/completions",
            "extras": {"body": {**errand.server.body, "temperature": 0}},
        }
        server |= {"api_key": errand.api_key} if errand.api_key else {}
        data = {"kind": "synthetic_text", "prompt_tokens": ask.prompt_tokens, "output_tokens": ask.output_tokens}
        return (
            *(python, "-m", "guidellm", "run", "--disable-console-interactive"),
            *("--backend", json.dumps(server), "--data", json.dumps(data)),
            *("--profile", json.dumps({"kind": "concurrent", "streams": ask.concurrency})),
            *("--constraint", json.dumps({"kind": "max_requests", "count": ask.requests})),
            *("--tokenizer", json.dumps({"kind": "hf_auto", "model": errand.tokenizer})),
            *("--seed", json.dumps({"kind": "static", "value": errand.seed})),
            *("--output", json.dumps({"kind": "json", "path": str(errand.folder / _REPORT)})),
        )

    def read(self, errand: ToolRun) -> Load:
        (benchmark,) = json.loads((errand.folder / _REPORT).read_text(encoding="utf-8"))["benchmarks"]
        asked, requests = errand.ask.output_tokens, benchmark["requests"]
        served = [_exchange(asked, row) for row in requests["successful"]]
        unserved = [
            failed(asked, row["info"]["timings"]["resolve_start"] or 0.0, status_in(message), message)
            for row in (*requests["errored"], *requests["incomplete"])
            for message in [row["info"].get("error") or "not finished"]
        ]
        return Load((*served, *unserved), left_out=blind_to_empty_tokens(errand))


def _exchange(asked: int, row: Mapping[str, Any]) -> Exchange:
    times = row["info"]["timings"]
    prompt, answer = row["input_metrics"]["text_tokens"], row["output_metrics"]["text_tokens"]
    stamps = (times["first_token_iteration"], times["last_token_iteration"])
    return Exchange(
        sent_tokens=prompt or 0,
        asked_tokens=asked,
        started_s=times["request_start"],
        ending="complete",
        ended_s=times["request_end"],
        arrivals_s=tuple(stamp for stamp in stamps if stamp is not None),
        usage=Usage(prompt, answer, row["input_metrics"].get("cached_tokens")),
    )
