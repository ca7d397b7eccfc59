"""
The plan of boots that people published, beside what their logs say: benchmarks/public-boots.toml.

    python benchmarks/public_boots.py > docs/results/planner/public-boots.md
"""

import json
import shlex
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from pytest_longctx.deployments.command import Start
from pytest_longctx.plan.boots import Boot, foresee
from pytest_longctx.plan.place import Place
from pytest_longctx.plan.planned_server import Given, of_start
from pytest_longctx.units import GiB

HERE = Path(__file__).parent
_BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
_QUANTIZED: dict[str, dict[str, Any]] = {
    "block-fp8": {**_BLOCKS, "modules_to_not_convert": ["lm_head"]},
    "gptq-int4": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "nvfp4-experts": {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "ignore": ["*linear_attn*", "*visual*", "lm_head", "*gate"],
    },
    "mxfp4": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
    "awq-int4": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
}


@cache
def _tables() -> tuple[dict[str, Any], dict[str, Any]]:
    known = json.loads((HERE.parent / "tests/data/shapes/models.json").read_text(encoding="utf-8"))
    return known, tomllib.loads((HERE / "public-boots.toml").read_text(encoding="utf-8"))


def config_of(model: str) -> dict[str, Any]:
    """The config.json of *model*."""
    known, made = _tables()
    facts = dict(made["models"][model])
    base, quantization = facts.pop("base", None), facts.pop("quantization", None)
    under = {} if base is None else known[base]["config"] if base in known else config_of(base)
    asked = {"quantization_config": _QUANTIZED[quantization]} if quantization else {}
    whole = {**under, **facts, **asked}
    return {name: None if value == "none" else value for name, value in whole.items()}


@dataclass(frozen=True)
class Row:
    """One boot: what was logged, and what is planned."""

    facts: dict[str, Any]
    boot: Boot

    @property
    def pool_gib(self) -> float | None:
        """The planned pool; None where nothing is planned."""
        found = self.boot.prediction
        return next((term.size_bytes / GiB for term in found.terms if term.name == "KV pool"), None) if found else None

    @property
    def tokens(self) -> float | None:
        """Tokens of the planned pool, as the engine counts them."""
        if self.boot.pool_tokens is not None:
            return self.boot.pool_tokens
        found = self.boot.prediction
        if found is None or found.concurrency is None or not self.boot.length:
            return None
        return found.concurrency * self.boot.length

    @property
    def error(self) -> float | None:
        """Relative, of the tokens, else of requests at once, else of the pool."""
        found = self.boot.prediction
        if found is None:
            return None
        if tokens := self.facts.get("kv_tokens"):
            return None if self.tokens is None else self.tokens / tokens - 1
        if requests := self.facts.get("concurrency"):
            return None if found.concurrency is None else found.concurrency / requests - 1
        return None if self.pool_gib is None else self.pool_gib / self.facts["kv_gib"] - 1

    @property
    def inside(self) -> bool | None:
        """Whether the logged size of the pool is within its planned bounds; None where there are none, or it was not logged."""
        found = self.boot.prediction
        pool = next((term for term in found.terms if term.name == "KV pool"), None) if found else None
        logged = self.facts.get("kv_gib")
        if pool is None or pool.bounds_bytes is None or logged is None:
            return None
        return pool.bounds_bytes[0] <= (logged + 0.005) * GiB and (logged - 0.005) * GiB <= pool.bounds_bytes[1]


def rows() -> list[Row]:
    """Every boot of the table, planned."""
    made = []
    for facts in _tables()[1]["boots"]:
        image = f"x/{facts['engine']}:v{facts['version']}" if facts.get("image") else None
        start = Start(facts["engine"], tuple(shlex.split(facts["command"])), env=facts.get("env", {}), image=image)
        asked = of_start(start, Given(version=facts["version"]))
        asked = replace(asked, model=facts["model"], config=config_of(facts["model"]), memory={}, known=None)
        made.append(Row(facts, foresee(asked, Place.parse(facts["hardware"]))))
    return made


def _size(gib: float) -> str:
    return next(
        name for limit, name in ((30, "to 24"), (60, "to 48"), (100, "to 96"), (1e9, "above 96")) if gib < limit
    )


def main() -> None:
    """Print the page."""
    found = rows()
    print(HEAD.format(boots=len(found)))
    planned = [row for row in found if row.error is not None]
    print("| devices, GiB | boots | planned | median error | worst |\n| --- | --- | --- | --- | --- |")
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        groups[_size(row.boot.place.device_bytes / GiB)].append(row)
        groups[f"{row.facts['engine']}, all"].append(row)
    for name in sorted(groups):
        print(_summary(name, groups[name]))
    print(_summary("all", found))
    ranged = [row for row in planned if row.inside is not None]
    print(
        f"\n{len(planned)} of {len(found)} are planned; {len(ranged)} of these as an interval of the pool's size and with a"
    )
    print(f"logged size, which is inside in {sum(bool(row.inside) for row in ranged)}.\n")
    print("| boot | logged | planned | error | interval | answer |\n| --- | --- | --- | --- | --- | --- |")
    for row in sorted(found, key=lambda row: -abs(row.error or 0)):
        print(_line(row))


HEAD = """# Public boots beside the plan

Made by `benchmarks/public_boots.py` of {boots} boots that people published with their command; `benchmarks/public-boots.toml`
names the log of each. An interval is said where kernels and versions differ by more than 0.5 GiB.

No boot was used before its first prediction. The first 16, by the planner as it was then, had a median error of 2.7 % and
32.1 % at worst; two more (-57.8 and -2.3 %) were taken out, because their flags were not published. What was mended since is
general where a source or a log says it: the default share before 0.20, the second model runner, graphs counted since 0.20, flags
of versions between two recorded ones. It is fitted to these boots where nothing else does: the estimate of graphs on devices
other than Hopper, what a GB10 takes, how wide the intervals are. The A100s, the draft layers, MiniMax-M2.5 and the two RTX 3090s
came after those mends; of these six the expected values were not touched again.

The two largest errors are open: with two RTX PRO 6000 that reach each other over PCIe, graphs took almost nothing, and a GB10
differs from boot to boot. Of a boot that was not planned, the last column says why.
"""


def _summary(name: str, some: Iterable[Row]) -> str:
    of_these = list(some)
    errors = [abs(row.error) for row in of_these if row.error is not None]
    figures = f"{median(errors):.1%} | {max(errors):.1%}" if errors else "| "
    return f"| {name} | {len(of_these)} | {len(errors)} | {figures} |"


def _line(row: Row) -> str:
    facts, error = row.facts, row.error
    logged = facts.get("kv_tokens")
    shown = (
        f"{logged:,} tokens"
        if logged
        else f"{facts['concurrency']}x"
        if "concurrency" in facts
        else f"{facts['kv_gib']} GiB"
    )
    here = "" if row.tokens is None else f"{row.tokens:,.0f} tokens"
    if not logged:
        found = row.boot.prediction
        here = (
            f"{found.concurrency:.2f}x"
            if found and found.concurrency and "concurrency" in facts
            else f"{row.pool_gib or 0:.2f} GiB"
        )
    pool = (
        next((term for term in row.boot.prediction.terms if term.name == "KV pool"), None)
        if row.boot.prediction
        else None
    )
    between = (
        ""
        if pool is None or pool.bounds_bytes is None
        else "{:.2f} to {:.2f} GiB".format(*(b / GiB for b in pool.bounds_bytes))
    )
    answer = (
        row.boot.unpredicted
        or "; ".join(each.said for each in row.boot.refusals)
        or (row.boot.prediction.outcome if row.boot.prediction else "")
    )
    name = f"{facts['model']} {facts['engine']} {facts['version']}, {facts['hardware']}"
    return f"| {name} | {shown} | {here} | {'' if error is None else f'{error:+.1%}'} | {between} | {answer} |"


if __name__ == "__main__":
    sys.exit(main())
