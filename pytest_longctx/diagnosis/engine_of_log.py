"""Recognise the engine that wrote a log, by words that only this engine uses."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

_WORDS: Final = {
    "vllm-neuron": rb"NEURON_CC_WRAPPER|INFO:Neuron|neuronx|TDRV:|nrt_\w+",
    "vllm": rb"vLLM|EngineCore|VllmWorker|/vllm/|\bvllm\b|APIServer pid=|multiproc_executor|Avg prompt throughput"
    rb"|ray_utils\.py|placement group of specs|RayWorkerWrapper",
    "sglang": rb"sglang|ServerArgs\(|Prefill batch|Decode batch|Load weight (?:begin|end)|mem_fraction_static|fired up and ready",
    "tgi": rb"text_generation_|text-generation-|ShardCannotStart",
    "lmdeploy": rb"lmdeploy|turbomind|\[TM\]",
    "trtllm": rb"TRT-LLM|TensorRT-LLM|tensorrt_llm|trtllm",
    "llamacpp": rb"\bllama_|ggml|llama\.cpp|llama-server|srv +\w+|\bollama\b|llama runner|starting llama server",
    "transformers": rb"transformers serve|loaded by transformers|AutoModelForCausalLM|/transformers/",
}
_PATTERNS: Final = {name: re.compile(words) for name, words in _WORDS.items()}
_MOST_OF = 0.9
"""From this share of its lines on, a log is a log of transformers."""
_ENOUGH = 4 << 20
"""Bytes at the beginning of a log that are searched."""


def engine_of(chunks: Iterable[bytes]) -> str | None:
    """Return the engine that wrote most lines of the log *chunks*; None if no line has a word that only one engine uses."""
    seen: Counter[str] = Counter()
    size = 0
    for chunk in chunks:
        for line in chunk.split(b"\n"):
            for name, pattern in _PATTERNS.items():
                if pattern.search(line[:4096]):
                    seen[name] += 1
        size += len(chunk)
        if size > _ENOUGH:
            break
    if not seen:
        return None
    if (
        seen["vllm-neuron"] and seen["vllm-neuron"] * 20 >= seen["vllm"]
    ):  # it is a plug-in of vLLM, whose lines it shares
        return "vllm-neuron"
    if len(seen) > 1 and seen["transformers"] < _MOST_OF * sum(seen.values()):
        del seen["transformers"]  # every engine imports the library, and its frames stand in their tracebacks
    return max(seen, key=lambda name: seen[name])
