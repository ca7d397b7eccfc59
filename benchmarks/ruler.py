"""
What a RULER prompt of a million tokens costs, task by task: ``python benchmarks/ruler.py MODEL [TOKENS]``.

MODEL is a folder with tokenizer.json; ``longctx data ruler`` fetches the texts. Each row is a process of its own.
"""

import json
import os
import resource
import subprocess
import sys
import time


def one(task: str, where: str, tokens: int) -> None:
    """Build one prompt and print its figures as JSON."""
    import numpy as np

    from pytest_longctx.prompts import tokenizer
    from pytest_longctx.prompts.ruler.build import build
    from pytest_longctx.prompts.ruler.published_data import material

    vocabulary, found = tokenizer.load(where), material()
    began_s, used_s = time.perf_counter(), time.process_time()
    posed = build(task, found, vocabulary, tokens, np.random.default_rng(1), "text")
    figures = {"seconds": time.perf_counter() - began_s, "cpu_s": time.process_time() - used_s}
    figures["off_by"] = vocabulary.count(posed.text, special=True) - tokens
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps(figures))


def main() -> None:
    """Print a table of all tasks."""
    from pytest_longctx.prompts.ruler.tasks import TASKS

    where, tokens = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    print(
        "| task | tokens | off by | seconds | CPU seconds | peak MB | load |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for task in TASKS:
        done = subprocess.run(
            [sys.executable, __file__, "--one", task, where, str(tokens)], capture_output=True, text=True, check=True
        )
        seen = json.loads(done.stdout)
        print(
            f"| {task} | {tokens:,} | {seen['off_by']:+d} | {seen['seconds']:.1f} | {seen['cpu_s']:.1f} | "
            f"{seen['peak_mb']:,.0f} | {os.getloadavg()[0]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
