"""Adapter for EleutherAI's lm-evaluation-harness, https://github.com/EleutherAI/lm-evaluation-harness."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pytest_longctx.client.adapters import EvaluationTool, ToolRun
from pytest_longctx.observation import Observation

FILTERS: Mapping[str, str] = MappingProxyType({"strict-match": "strict", "flexible-extract": "flexible"})
"""Maps lm-eval's names of the two ways to extract an answer from a text to the names in findings."""

# Start in the tasks' folder: their data files have relative paths.
_MAIN = "import os, sys; os.chdir(sys.argv.pop(1)); from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
_LONGEST_QUESTION_TOKENS = 2048
_LONGEST_ANSWER_TOKENS = 256
"""Answer length in tokens that lm-eval requests if the task sets none."""
_MOST_QUESTIONS = 2000
"""Questions assumed for the deadline of a whole task. A finding sets the number for a longer task."""


class LmEval(EvaluationTool):
    """
    Adapter that runs lm-eval with ``local-completions``: it sends text to the server and needs neither torch nor a
    tokenizer here.
    """

    name = "lm-eval"
    package = "lm_eval"
    distributions = ("lm_eval",)
    install = ("lm-eval[api]==0.4.13",)
    pass_env = ("HF_*", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    needs = "the task's dataset in the cache of HF_HOME, or a network to fetch it from"

    def argv(self, errand: ToolRun, python: str) -> tuple[str, ...]:
        ask = errand.ask
        each_s = errand.server.deployment.timeouts.request_s(_LONGEST_QUESTION_TOKENS, _LONGEST_ANSWER_TOKENS)
        server = {
            "base_url": f"{errand.server.url}/v1/completions",
            "model": errand.server.model,
            # This way the server tokenises and does not truncate; it refuses prompts that are too long.
            "tokenized_requests": False,
            "tokenizer_backend": None,
            "num_concurrent": ask.concurrency or 1,
            "timeout": round(each_s),
            "max_retries": 5,
        }
        return (
            *(python, "-c", _MAIN, str(errand.tasks or errand.folder), "run", "--model", "local-completions"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in server.items())),
            *("--tasks", str(ask.task), "--seed", str(errand.seed), "--output_path", str(errand.folder)),
            *(("--num_fewshot", str(ask.shots)) if ask.shots is not None else ()),
            *(("--limit", str(ask.requests)) if ask.requests is not None else ()),
            *(("--include_path", str(errand.tasks)) if errand.tasks else ()),
        )

    def env(self, errand: ToolRun) -> dict[str, str]:
        # A proxy is for datasets, never for the server.
        return {**super().env(errand), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}

    def deadline_s(self, errand: ToolRun) -> float:
        questions = errand.ask.requests or _MOST_QUESTIONS
        return errand.deadline_s(questions, _LONGEST_QUESTION_TOKENS, _LONGEST_ANSWER_TOKENS)

    def read(self, errand: ToolRun) -> Observation:
        (report,) = errand.folder.rglob("results_*.json")
        found, task = json.loads(report.read_text(encoding="utf-8")), str(errand.ask.task)
        metrics = {"requests": float(found["n-samples"][task]["effective"]), **_scores(found["results"][task])}
        about = f"{task} version {found['versions'].get(task)}, {found['n-shot'].get(task)} shots"
        return Observation("serves", metrics, phase="request", measured_by=about)


def _scores(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """
    Return the accuracies that lm-eval reports for the task. A standard error that lm-eval did not compute is None, not
    zero.
    """
    scores: dict[str, float | None] = {}
    for theirs, ours in FILTERS.items():
        for suffix in ("", "_stderr"):
            value = figures.get(f"exact_match{suffix},{theirs}")
            scores[f"accuracy_{ours}{suffix}"] = value if isinstance(value, int | float) else None
    return scores
