"""
Accuracy of the time to first token of this client and of other clients, measured against a server that records the truth.

    python benchmarks/client_faithfulness.py --peer vllm-bench=PYTHON --peer guidellm=PYTHON --peer aiperf=PYTHON --json FILE

The error of a request is the absolute difference between the client's value and the server's, from the first byte read to the
first content written. Each client runs in a separate process against a separate server; all take turns, in three rounds. The
script prints a Markdown table with the median of the rounds, and fails if a limit is exceeded. A peer can report fewer requests
than it sent (GuideLLM once: 499 of 500); this client must report all. The run takes ten minutes.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import clients
import numpy as np
from nearby import serving
from prompts import make_tokenizer

from pytest_longctx.backends import environments
from pytest_longctx.client.server import Server
from pytest_longctx.findings.ask import Ask

MILLION = 1_000_000


@dataclass(frozen=True)
class Scene:
    """A request pattern, and the behaviour of the server."""

    name: str
    ask: Ask
    script: tuple[str, ...]
    peers: bool = True


def _asked(prompt_tokens: int, requests: int, concurrency: int, output_tokens: int) -> Ask:
    return Ask(prompt_tokens=prompt_tokens, requests=requests, concurrency=concurrency, output_tokens=output_tokens)


SCENES = (
    Scene("one at a time", _asked(128, 300, 1, 16), ("--first-s=0.01", "--gap-s=0.004")),
    # The pieces of all streams leave at the same moments, as at the end of an engine's steps.
    Scene("fifty at once", _asked(128, 500, 50, 64), ("--first-s=0.3", "--step-s=0.05")),
    Scene("a million tokens", _asked(MILLION, 3, 1, 16), ("--first-s=1",), peers=False),
    Scene("ten million tokens", _asked(10 * MILLION, 3, 1, 16), ("--first-s=2",), peers=False),
)
PIECE = 4
BARS = (
    ("one at a time", "p50_ms", 1.0),
    ("one at a time", "p99_ms", 5.0),
    ("fifty at once", "p99_ms", 10.0),
    ("ten million tokens", "worst_share", 0.01),
    ("ten million tokens, after the upload", "worst_share", 0.01),
)
"""Limits for this package's client, in milliseconds or as shares of the true value."""


def measure(scene: Scene, client: str, python: str, tokenizer: Path) -> dict[str, dict[str, float]]:
    """Run one client in one scene. Returns its errors by figure."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "truth.jsonl"
        with _truth(scene, log, tokenizer) as server:
            if client == clients.OURS:
                claims = clients.ours(server, scene.ask)
            else:
                claims = clients.peer(client, python, server, scene.ask, Path(name) / "peer")
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return _errors(scene, claims, rows, whole=client == clients.OURS)


def _truth(scene: Scene, log: Path, tokenizer: Path) -> contextlib.AbstractContextManager[Server]:
    there = str(Path(__file__).with_name("truth.py"))
    return serving(there, "--log", str(log), f"--piece={PIECE}", *scene.script, model=str(tokenizer))


def _errors(
    scene: Scene, claims: list[clients.Claim], rows: list[dict[str, Any]], *, whole: bool
) -> dict[str, dict[str, float]]:
    truth = {str(row["number"]): row for row in rows} | {row["named"]: row for row in rows if row["named"]}
    pairs = [(claim, truth[claim.which]) for claim in claims]
    matched = len({row["number"] for _, row in pairs})
    if matched != len(pairs) or matched > scene.ask.requests or (whole and matched < scene.ask.requests):
        raise SystemExit(
            f"{scene.name}: {matched} of {len(pairs)} requests have distinct numbers, {scene.ask.requests} were requested"
        )
    _check_counts(pairs)
    firsts = [(claim.ttft_s, row["wrote_s"] - row["first_byte_s"]) for claim, row in pairs]
    found = {scene.name: _summary(firsts)}
    waits = [
        (claim.ttft_s - claim.upload_s, row["wrote_s"] - row["last_byte_s"])
        for claim, row in pairs
        if claim.upload_s is not None
    ]
    return found | ({f"{scene.name}, after the upload": _summary(waits)} if waits and not scene.peers else {})


def _check_counts(pairs: list[tuple[clients.Claim, dict[str, Any]]]) -> None:
    for claim, row in pairs:
        true = (row["prompt_tokens"], row["tokens"], -(-row["tokens"] // PIECE))
        if claim.counts and tuple(claim.counts) != true:
            raise SystemExit(f"tokens and chunks were {true}, the client counted {claim.counts}")


def _summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    errors_ms = [abs(reported - true) * 1000 for reported, true in pairs]
    p50_ms, p99_ms = np.percentile(errors_ms, (50, 99)).tolist()
    return {
        "requests": len(pairs),
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "worst_ms": max(errors_ms),
        "worst_share": max(abs(reported - true) / true for reported, true in pairs),
    }


def rounds(count: int, peers: dict[str, str], tokenizer: Path) -> list[dict[str, Any]]:
    """Run every client in every scene, *count* times."""
    found = []
    for i in range(count):
        for scene in SCENES:
            for client in (clients.OURS, *peers) if scene.peers else (clients.OURS,):
                before = os.getloadavg()[0]
                for about, errors in measure(scene, client, peers.get(client, ""), tokenizer).items():
                    found.append({"round": i + 1, "scene": about, "client": client, "load": before, **errors})
                    print(f"round {i + 1}: {found[-1]}", file=sys.stderr, flush=True)
    return found


def costs(tokenizer: Path) -> dict[str, dict[str, float]]:
    """Return the cost of one request by scene. For fifty concurrent requests it is the cost of a single one."""
    found = {}
    for scene in SCENES:
        if scene.ask.concurrency == 1:
            with tempfile.TemporaryDirectory() as name, _truth(scene, Path(name) / "log", tokenizer) as server:
                found[scene.name] = clients.cost(server, scene.ask)
    return found


FIGURES = ("p50_ms", "p99_ms", "worst_ms", "worst_share")


def table(found: list[dict[str, Any]], cost: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Print a row for each client and scene, and return the rows."""
    print(
        "| scene | client | requests | median ms | p99 ms | worst ms | worst share | median, p99 by ours | CPU ms | peak MB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: list[dict[str, Any]] = []
    for scene, client in dict.fromkeys((each["scene"], each["client"]) for each in found):
        these = [each for each in found if (each["scene"], each["client"]) == (scene, client)]
        row = {name: median(each[name] for each in these) for name in FIGURES}
        row |= {"scene": scene, "client": client, "requests": sum(each["requests"] for each in these)}
        rows.append(row)
        own = next(each for each in rows if each["scene"] == scene)
        ratios = (
            ""
            if client == clients.OURS
            else f"{row['p50_ms'] / own['p50_ms']:.1f}, {row['p99_ms'] / own['p99_ms']:.1f}"
        )
        spent = cost.get(scene) if client == clients.OURS else None
        took = f"{spent['cpu_s'] * 1000:.1f} | {spent['peak_bytes'] / 1e6:.2f}" if spent else " | "
        errors = f"{row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['worst_ms']:.2f} | {row['worst_share']:.2%}"
        print(f"| {scene} | {client} | {row['requests']:,} | {errors} | {ratios} | {took} |")
    return rows


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Return the limits that this client exceeded, as sentences."""
    own = {row["scene"]: row for row in rows if row["client"] == clients.OURS}
    return [
        f"missed: {scene}: {figure} {own[scene][figure]:.4g}, the bar is {bar}"
        for scene, figure, bar in BARS
        if own[scene][figure] >= bar
    ]


def main() -> int:
    """Measure, print and store the results, and fail if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(clients.PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    peers = dict(each.split("=", 1) for each in asked.peer)
    about = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "httpx": version("httpx"),
        **{
            name: environments.installed_version(clients.PEERS[name][0], Path(python)) for name, python in peers.items()
        },
    }
    with tempfile.TemporaryDirectory() as name:
        make_tokenizer(Path(name))
        found = rounds(asked.rounds, peers, Path(name))
        cost = costs(Path(name))
    rows = table(found, cost)
    about["load"] = [min(each["load"] for each in found), max(each["load"] for each in found)]
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items()))
    if asked.json:
        whole = {"about": about, "table": rows, "cost": cost, "rounds": found}
        asked.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(*missed(rows), sep="\n")
    return int(bool(missed(rows)))


if __name__ == "__main__":
    sys.exit(main())
