"""
Certify an honest hosted API many times with random latencies, limits, dialects and wordings; count what is called broken.

``python benchmarks/certificate_honest.py [RUNS]`` prints each false red and its options, and exits with 1 if there is one.
"""

import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from pytest_longctx.certificate import run
from pytest_longctx.certificate.budget import Budget
from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.latency import Latency
from pytest_longctx.miniatures.hosted.wire import serving

WORKERS = 4
LATENCIES = ("none", "uniform:0,0.05", "lognormal:0.01,1", "lognormal:0.03,0.5", "fixed:0.01")


def once(number: int, seed: int) -> tuple[dict, list[str], bool]:
    """One run: its options, what was called broken, and whether the limit was found exactly."""
    draw = random.Random(f"{seed}-{number}")
    limit = draw.randint(3_000, 20_000)
    options = {
        "limit": limit,
        "listed": draw.choice([None, limit]),
        "dialects": (draw.choice(["chat", "chat", "text", "responses"]),),
        "refusal": draw.choice(["openai", "vllm", "sglang"]),
        "reports_cached": draw.random() < 0.5,
        "comments": draw.random() < 0.3,
        "pages": draw.random() < 0.3,
        "counts_answer": draw.random() < 0.7,
    }
    latency = draw.choice(LATENCIES)
    decode = draw.choice([None, None, 400.0])
    api = HostedApi(**options, latency=Latency(latency, draw.choice([None, 200_000.0]), decode, number))
    with serving(api) as url:
        wanted = run.Wanted(url, budget=Budget(4_000_000), seed=number)
        made = run.certify(wanted, wanted.wire())
    broken = [f"{each.check}: {each.seen}" for each in made.results if each.word == "broken"]
    return {**options, "latency": latency, "decode": decode}, broken, made.context == limit


def main() -> int:
    """Print the counts."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    began, red, exact = time.monotonic(), 0, 0
    with ProcessPoolExecutor(WORKERS) as pool:
        for number, (options, broken, found) in enumerate(pool.map(once, range(runs), repeat(20261129))):
            red += bool(broken)
            exact += found
            if broken or not found:
                print(f"run {number} {options}: {broken or 'another limit'}", flush=True)
    print(
        f"{runs} honest runs: {red} with a false red, the limit found exactly in {exact}; {time.monotonic() - began:.0f} s"
    )
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
