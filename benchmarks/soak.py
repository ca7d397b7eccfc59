"""
Memory stability of the client: half an hour of requests to a miniature, with 180 samples of resident memory.

    python benchmarks/soak.py [--seconds 1800] [--rate 4] [--json FILE]

The script prints one Markdown row: the memory after the first tenth of the time, and the slope of a line fitted to all later
samples.
"""

import argparse
import json
import os
import platform
import resource
import time
from itertools import count
from pathlib import Path
from statistics import linear_regression

from nearby import serving

from pytest_longctx.client.request import ask
from pytest_longctx.client.server import Server
from pytest_longctx.prompts import PromptFactory

SHORT_TOKENS = 256
LONG_TOKENS = 100_000
LONG_EVERY = 100
ANSWER_TOKENS = 16
LOOKS = 180


def resident_mb() -> float:
    """Return the current resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def soak(server: Server, seconds: float, rate: float) -> list[tuple[float, float, int]]:
    """Return the samples: seconds since the start, megabytes, requests so far."""
    factory = PromptFactory(0, "soak", (1000, 100_000))
    readings: list[tuple[float, float, int]] = []
    started_s = time.monotonic()
    for done in count():
        now_s = time.monotonic() - started_s
        if now_s >= len(readings) * seconds / LOOKS:
            readings.append((now_s, resident_mb(), done))
        if now_s > seconds:
            return readings
        tokens = SHORT_TOKENS if done % LONG_EVERY else LONG_TOKENS
        exchange = ask(server, factory(tokens), ANSWER_TOKENS)
        if exchange.ending != "complete":
            raise SystemExit(f"request {done}: {exchange}")
        time.sleep(max(0.0, started_s + (done + 1) / rate - time.monotonic()))
    raise AssertionError


def main() -> None:
    """Run the soak, print the row and store the samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--rate", type=float, default=4.0, help="requests per second")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with serving("-m", "pytest_longctx.miniatures") as server:
        readings = soak(server, asked.seconds, asked.rate)
    used = resource.getrusage(resource.RUSAGE_SELF)
    settled = [reading for reading in readings if reading[0] >= asked.seconds / 10]
    slope = linear_regression([at_s for at_s, _, _ in settled], [mb for _, mb, _ in settled]).slope
    requests, lasted_s = readings[-1][2], readings[-1][0]
    cpu_s = used.ru_utime + used.ru_stime
    print(
        "| seconds | requests | start MB | end MB | highest MB | KB an hour | CPU |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    ends = f"{settled[0][1]:.1f} | {settled[-1][1]:.1f} | {max(mb for _, mb, _ in settled):.1f}"
    print(f"| {lasted_s:.0f} | {requests:,} | {ends} | {slope * 3600 * 1000:+,.0f} | {cpu_s / lasted_s:.1%} |")
    if asked.json:
        about = {"python": platform.python_version(), "kb_per_hour": slope * 3.6e6, "cpu_s": cpu_s}
        rows = [[round(at_s, 1), round(mb, 3), done] for at_s, mb, done in readings]
        asked.json.write_text(json.dumps({**about, "seconds_mb_requests": rows}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
