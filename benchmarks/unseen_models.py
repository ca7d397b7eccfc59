"""
Public configs beside an oracle's answers: exact, refused by name, or wrong.

    python benchmarks/unseen_models.py [tests/data/shapes/unseen.json | unseen_again.json | unseen_quantised.json | ...]

The file holds, for each model, where its config.json was found, what is right, and the config. What is right was written
down before the reader was asked: parameters as the class of transformers 5.19 has them on the meta device, bytes of the
cache and of states by hand from vLLM 0.32's sources, bytes of quantised weights from the layers that the scheme packs; or a
refusal, where no engine serves what the file describes.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_longctx.shapes import ModelShape, read

UNSEEN = Path(__file__).parent.parent / "tests/data/shapes/unseen.json"


def wrong(shape: ModelShape, expected: dict[str, Any]) -> list[str]:
    """What *shape* says otherwise than is *expected*; parameters may differ by one percent."""
    found = []
    parameters, token = expected.get("parameters"), expected.get("kv_bytes_per_token")
    if parameters is not None and abs(shape.parameters - parameters) > 0.01 * parameters:
        found.append(f"parameters {shape.parameters:,} of {parameters:,}")
    if token is not None and shape.kv_bytes_per_token() != token:
        found.append(f"bytes of a token {shape.kv_bytes_per_token():,} of {token:,}")
    if shape.state_bytes() != expected.get("state_bytes", shape.state_bytes()):
        found.append(f"bytes of a state {shape.state_bytes():,} of {expected['state_bytes']:,}")
    weights = expected.get("weight_bytes")
    if weights is not None and abs(shape.weight_bytes() - weights) > 0.01 * weights:
        found.append(f"bytes of the weights {shape.weight_bytes():,} of {weights:,}")
    return found


def judged(case: dict[str, Any]) -> tuple[str, str]:
    """The verdict on one model, and its detail."""
    expected, shape = case["expected"], read(case["config"])
    if not isinstance(shape, ModelShape):
        right = "refused" in expected or expected.get("may_refuse", False)
        return ("refused, rightly" if right else "refused, could be planned"), f"{shape.key}: {shape.why}"
    if (
        "refused" in expected
    ):  # what only the plan of an engine can refuse is asked in tests/unit/plan/test_unseen_configs.py
        return ("read, left to the plan" if expected.get("by_the_plan") else "wrong: planned"), str(expected["refused"])
    differs = wrong(shape, expected)
    towers = shape.vision_parameters is None and all(each.startswith("parameters") for each in differs)
    if differs and towers:
        return "exact, towers named as not counted", "; ".join(differs)
    return ("wrong" if differs else "exact"), "; ".join(differs)


def table(cases: dict[str, Any]) -> Iterator[str]:
    """The page's lines: how many, then each model that is not exact."""
    found = {name: judged(case) for name, case in cases.items()}
    yield "| verdict | models |\n| --- | --- |"
    for verdict, count in Counter(verdict for verdict, _ in found.values()).most_common():
        yield f"| {verdict} | {count} |"
    yield "\n| model | verdict | why |\n| --- | --- | --- |"
    for name, (verdict, why) in sorted(found.items(), key=lambda each: (each[1][0], each[0])):
        if verdict != "exact":
            yield f"| {name} | {verdict} | {why.replace('|', ' ')[:150]} |"


if __name__ == "__main__":
    print("\n".join(table(json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else UNSEEN).read_text()))))
