"""
Cost of building prompts, here and in other tools, as ratios within one run.

    python benchmarks/prompts.py --peer vllm=PYTHON --peer guidellm=PYTHON --peer lm-eval=PYTHON [--long]

Each measurement runs in a separate process, so that peak memory is separate and no cache is warm. The peers run in the
interpreters that have them installed. All use the same tokenizer, trained here on the generated sentences.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

MILLION = 1_000_000
RULER_LENGTHS = (16_384, 32_768, 65_536)
"""
Lengths for lm-eval. Its builder tokenises the whole text again every 25 sentences, so a million tokens would take hours.
"""


def make_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE with the pre-tokenizer of Llama 3 in *folder*."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from pytest_longctx.prompts import corpus

    split = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8000, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(islice(corpus.endless(1), 4), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100 * MILLION}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def ids(_folder: Path, tokens: int) -> int:
    """Build random ids and their request body, consumed as in an upload."""
    from pytest_longctx.prompts import PromptFactory

    prompt = PromptFactory(time.time_ns(), "benchmark", (1000, 100_000))(tokens)
    assert sum(len(chunk) for chunk in prompt.json_chunks()) == prompt.json_bytes
    return len(prompt)


def text(folder: Path, tokens: int) -> int:
    """Build text of exact length."""
    from pytest_longctx.prompts import tokenizer as prompts_tokenizer
    from pytest_longctx.prompts.corpus import Sentences
    from pytest_longctx.prompts.text import exact_text

    exact_text(prompts_tokenizer.load(str(folder)), Sentences(), tokens, opening=f"{time.time_ns()}. ")
    return tokens


def natural(folder: Path, tokens: int) -> int:
    """Build ids of natural text without a cache entry."""
    from pytest_longctx.prompts import PromptFactory
    from pytest_longctx.prompts.cache import TokenCache
    from pytest_longctx.prompts.factory import Reader

    with tempfile.TemporaryDirectory() as empty:
        reader = Reader(str(folder), cache=TokenCache(Path(empty)))
        return len(PromptFactory(0, "benchmark", (1000, 100_000), lambda: reader).natural(tokens))


def plain_encode(folder: Path, tokens: int) -> int:
    """Encode such a text once with the tokenizers package: the unit of the text figures."""
    from tokenizers import Tokenizer

    from pytest_longctx.prompts import corpus

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (some,) = islice(corpus.endless(7), 1)
    characters = int(len(some) / len(tokenizer.encode(some)) * tokens)
    whole = "".join(islice(corpus.endless(0), characters // len(some) + 2))[:characters]
    start = now()
    came = len(tokenizer.encode(whole))
    say(start)
    return came


def vllm(folder: Path, tokens: int) -> int:
    """Build one request and its body with `vllm bench serve --dataset-name random`."""
    from transformers import AutoTokenizer
    from vllm.benchmarks.datasets import RandomDataset

    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = now()
    (request,) = RandomDataset(random_seed=0).sample(tokenizer, 1, input_len=tokens, output_len=1)
    json.dumps({"prompt": request.prompt}).encode()
    say(start)
    return len(tokenizer.encode(request.prompt))


def guidellm(folder: Path, tokens: int) -> int:
    """Build GuideLLM's synthetic prompt and its body."""
    from faker import Faker
    from guidellm.data.deserializers.synthetic import _SyntheticTextExamplesIterable
    from transformers import AutoTokenizer

    examples = object.__new__(_SyntheticTextExamplesIterable)
    examples.processor = AutoTokenizer.from_pretrained(folder)
    faker = Faker()
    faker.seed_instance(0)
    start = now()
    prompt = examples._create_prompt(tokens, faker)  # GuideLLM builds each row with this call
    json.dumps({"prompt": prompt}).encode()
    say(start)
    return len(examples.processor.encode(prompt))


def ruler(folder: Path, tokens: int) -> int:
    """Build one sample of lm-eval's niah_single_1."""
    from lm_eval.tasks.ruler.niah_utils import TEMPLATE
    from lm_eval.tasks.ruler.prepare_niah import generate_samples, get_haystack
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = now()
    (sample,) = generate_samples(
        get_haystack(type_haystack="repeat"),
        max_seq_length=tokens,
        template=TEMPLATE,
        type_haystack="repeat",
        type_needle_k="words",
        type_needle_v="numbers",
        num_samples=1,
        tokens_to_generate=0,
        TOKENIZER=tokenizer,
    )
    say(start)
    return len(tokenizer.encode(sample["input"]))


def needle(folder: Path, tokens: int) -> int:
    """Build a needle in natural text without a cache entry."""
    from pytest_longctx.prompts import PromptFactory
    from pytest_longctx.prompts.cache import TokenCache
    from pytest_longctx.prompts.factory import Reader

    with tempfile.TemporaryDirectory() as empty:
        reader = Reader(str(folder), cache=TokenCache(Path(empty)))
        return len(PromptFactory(0, "benchmark", (1000, 100_000), lambda: reader).needle(tokens, 0.5).prompt)


TASKS: dict[str, Callable[[Path, int], int]] = {
    task.__name__: task for task in (ids, text, natural, needle, plain_encode, vllm, guidellm, ruler)
}


TIMED_INSIDE = ("plain_encode", "vllm", "guidellm", "ruler")
"""Tasks that start the clock after their imports. Imports of a peer are not counted; those of this package are."""


def now() -> tuple[float, float]:
    """Return the clock and the processor time of this process. Other work on the machine does not extend the latter."""
    return time.perf_counter(), time.process_time()


def say(start: tuple[float, float]) -> None:
    """Print the elapsed times since *start*."""
    wall_s, cpu_s = (end - begin for end, begin in zip(now(), start, strict=True))
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s}))


def one(task: str, folder: Path, tokens: int) -> None:
    """Run one measurement in this process and print its result."""
    start = now()
    came = TASKS[task](folder, tokens)
    if task not in TIMED_INSIDE:
        say(start)
    print(json.dumps({"came": came, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return the peak memory of this process since its start. getrusage would include the parent's memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024 / 1e6


def measure(python: str, task: str, folder: Path, tokens: int) -> float:
    """Run one measurement in a new process, print it as a row, and return its processor seconds."""
    command = [python, __file__, "--task", task, "--folder", str(folder), "--tokens", str(tokens)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    numbers = f"{found['came'] - tokens:+,} | {found['wall_s']:.2f} | {found['cpu_s']:.2f} | {found['peak_mb']:,.0f}"
    print(f"| {task} | {tokens:,} | {numbers} |", flush=True)
    return found["cpu_s"]


def compare(folder: Path, peers: dict[str, str], *, long: bool) -> None:
    """Print every row, then the ratios."""
    print("| what | tokens | off by | seconds | CPU seconds | peak MB |\n| --- | --- | --- | --- | --- | --- |")
    here = sys.executable
    ids_s = measure(here, "ids", folder, MILLION)
    measure(here, "ids", folder, 10 * MILLION)
    lengths = [MILLION, 2 * MILLION, 5 * MILLION, 10 * MILLION] if long else [MILLION]
    plain_s = measure(here, "plain_encode", folder, MILLION)
    texts_s = {tokens: measure(here, "text", folder, tokens) for tokens in lengths}
    for tokens in (lengths[0], lengths[-1]) if long else lengths:
        measure(here, "natural", folder, tokens)
    theirs = {name: measure(peers[name], name, folder, MILLION) for name in ("vllm", "guidellm") if name in peers}
    for tokens in RULER_LENGTHS if "lm-eval" in peers else ():
        theirs[f"lm-eval at {tokens:,}"] = measure(peers["lm-eval"], "ruler", folder, tokens)
    needle_s = measure(here, "needle", folder, RULER_LENGTHS[-1])
    print("\nratios of CPU seconds:")
    print(f"exact text of a million tokens: {texts_s[MILLION] / plain_s:.2f} plain encodes")
    for tokens, seconds in texts_s.items():
        print(f"exact text of {tokens:,}: {seconds / texts_s[MILLION] / (tokens / MILLION):.2f} of linear")
    for name, seconds in theirs.items():
        ours = needle_s if name.startswith("lm-eval") else ids_s
        print(f"{name}: {seconds / ours:,.1f} times ours")


def main() -> None:
    """Compare all tools, or run one measurement in a child process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="vllm, guidellm or lm-eval, with its interpreter",
    )
    parser.add_argument("--long", action="store_true", help="also exact text of up to ten million tokens (needs 8 GB)")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        return one(asked.task, asked.folder, asked.tokens)
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer(Path(folder))
        compare(Path(folder), dict(peer.split("=", 1) for peer in asked.peer), long=asked.long)
    return None


if __name__ == "__main__":
    main()
