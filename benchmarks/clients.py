"""Clients under comparison, each in a separate process, and what each reports about which request."""

import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_longctx.client import load
from pytest_longctx.client.adapters import LoadTool, ToolRun
from pytest_longctx.client.adapters.aiperf import AIPerf
from pytest_longctx.client.adapters.guidellm import GuideLLM
from pytest_longctx.client.adapters.vllm_bench import VllmBench
from pytest_longctx.client.exchange import Exchange
from pytest_longctx.client.request import ask
from pytest_longctx.client.server import Server
from pytest_longctx.findings.ask import Ask
from pytest_longctx.prompts import PromptFactory

OURS = "pytest-longctx"


@dataclass(frozen=True)
class Claim:
    """Report of a client about one request; times in seconds from its start."""

    which: str
    """Number given by the server, or name given by the client."""
    ttft_s: float
    upload_s: float | None = None
    counts: tuple[int | None, int | None, int] | None = None
    """Prompt tokens, completion tokens and chunks."""


def _vllm_bench(folder: Path) -> list[str]:
    return [
        _number(text) for text in json.loads((folder / "report.json").read_text(encoding="utf-8"))["generated_texts"]
    ]


def _guidellm(folder: Path) -> list[str]:
    (benchmark,) = json.loads((folder / "report.json").read_text(encoding="utf-8"))["benchmarks"]
    return [_number(row["output"]) for row in benchmark["requests"]["successful"]]


def _aiperf(folder: Path) -> list[str]:
    lines = (folder / "profile_export.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["metadata"]["x_request_id"] for line in lines]


PEERS: dict[str, tuple[LoadTool, Callable[[Path], list[str]]]] = {
    "vllm-bench": (VllmBench(), _vllm_bench),
    "guidellm": (GuideLLM(), _guidellm),
    "aiperf": (AIPerf(), _aiperf),
}
"""Peers by name, each with the identifier of its requests, in the order in which its adapter reads them."""


def _number(text: str) -> str:
    found = re.search(r"r(\d+)\.", text)
    return found[1] if found else "none"


def peer(name: str, python: str, server: Server, asked: Ask, folder: Path) -> list[Claim]:
    """Run the client *name* with its own interpreter and return its report."""
    tool, which = PEERS[name]
    folder.mkdir()
    errand = ToolRun(server, asked, seed=time.time_ns() % 1_000_000, folder=folder)
    environment = {**os.environ, **tool.env(errand)}
    environment.pop("PYTHONPATH", None)  # each peer has a separate environment
    done = subprocess.run(tool.argv(errand, python), check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    exchanges = tool.read(errand).exchanges
    return [
        Claim(name, each.ttft_s) for name, each in zip(which(folder), exchanges, strict=True) if each.ttft_s is not None
    ]


def ours(server: Server, asked: Ask) -> list[Claim]:
    """Run this package's client in a new process and return its report."""
    found = _in_a_process("requests", server, asked)
    return [Claim(*row) for row in found]


def cost(server: Server, asked: Ask) -> dict[str, float]:
    """Return the processor seconds and bytes of one request of this client, measured in a new process."""
    return _in_a_process("cost", server, asked)


def _in_a_process(task: str, server: Server, asked: Ask) -> Any:
    given = json.dumps({"url": server.url, "ask": asked.model_dump(exclude_unset=True)})
    done = subprocess.run([sys.executable, __file__, task, given], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{OURS} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def _requests(server: Server, asked: Ask) -> list[list[Any]]:
    factory = PromptFactory(time.time_ns(), "benchmark", (1000, 100_000))
    if asked.concurrency == 1:
        tokens, answer = asked.prompt_tokens or 1, asked.output_tokens
        exchanges: tuple[Exchange, ...] = tuple(
            ask(server, factory(tokens), answer) for _ in range(asked.requests or 1)
        )
    else:
        exchanges = load.run(server, factory, asked).exchanges
    if unserved := [each for each in exchanges if each.ending != "complete"]:
        raise SystemExit(f"not served: {unserved[0]}")
    return [
        [
            _number(each.text),
            each.ttft_s,
            each.uploaded_s and each.uploaded_s - each.started_s,
            (each.usage.prompt_tokens, each.usage.completion_tokens, len(each.arrivals_s)),
        ]
        for each in exchanges
    ]


def _cost(server: Server, asked: Ask) -> dict[str, float]:
    factory = PromptFactory(time.time_ns(), "benchmark", (1000, 100_000))
    tokens, answer, requests = asked.prompt_tokens or 1, asked.output_tokens, asked.requests or 1
    ask(server, factory(tokens), answer)  # one-time costs of a process do not count for the request
    prompts = [factory(tokens) for _ in range(requests)]
    before_s = time.process_time()
    for prompt in prompts:
        ask(server, prompt, answer)
    cpu_s = (time.process_time() - before_s) / requests
    tracemalloc.start()
    kept = [ask(server, prompts[0], answer)]
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"cpu_s": cpu_s, "peak_bytes": peak, "kept_bytes": now if kept else 0}


def main() -> None:
    """Run one task of this package's client in this process and print its result."""
    from nearby import server_at

    task, given = sys.argv[1], json.loads(sys.argv[2])
    tasks: dict[str, Callable[[Server, Ask], Any]] = {"requests": _requests, "cost": _cost}
    print(json.dumps(tasks[task](server_at(given["url"]), Ask(**given["ask"]))))


if __name__ == "__main__":
    main()
