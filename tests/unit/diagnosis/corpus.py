"""
Labelled logs against what is made of them: `python -m tests.unit.diagnosis.corpus FOLDER` prints the table of docs/explanation/diagnosis.md.

Each log has its label in its head; a line ``# ended:`` says how the process ended, and is given to the diagnosis as evidence.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_longctx.backends import catalogues, every_catalogue
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, assess
from pytest_longctx.diagnosis.engine_of_log import engine_of
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import Catalogue

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests" / "data" / "diagnosis" / "developed"
RECORDED = FOLDER.parent / "recorded.tsv"
CATALOGUES = catalogues()
ALL = every_catalogue()

CLASSES: Mapping[str, tuple[str, ...]] = {
    "assert-failed": ("engine-assert",),
    "compile": ("compile",),
    "config": ("config", "bad-flag"),
    "config-bad": ("model-config",),
    "env-broken": ("environment", "engine-missing"),
    "etcd-unreachable": ("service-unreachable",),
    "fabric-not-ready": ("device",),
    "fp8-refused": ("fp8-refused", "fp8-assertion"),
    "gpu-busy": ("dirty-gpu",),
    "gpu-feature-unsupported": ("device",),
    "graph-capture": ("compile",),
    "grid-limit": ("kernel-limit",),
    "illegal-instruction": ("wrong-build",),
    "kernel-resources": ("kernel-limit",),
    "killed-from-outside": ("killed",),
    "no-device": ("device",),
    "oom": ("gpu-oom-kv", "gpu-oom-tables", "gpu-oom-weights", "gpu-oom-graphs", "gpu-oom-profile", "gpu-oom-request"),
    "oom-compile": ("gpu-oom-compile",),
    "oom-graphs": ("gpu-oom-graphs", "gpu-oom-profile"),
    "oom-kv": ("gpu-oom-kv",),
    "oom-profile": ("gpu-oom-profile",),
    "oom-request": ("gpu-oom-request",),
    "oom-weights": ("gpu-oom-weights",),
    "quant-no-device": ("wrong-build",),
    "ray-no-resources": ("cluster-resources",),
    "nccl-error": ("collective-failed",),
    "ray-resources": ("cluster-resources",),
    "rendezvous-timeout": ("rank-unreachable",),
    "request-never-scheduled": ("hang-admission",),
    "structured-output-crash": ("structured-output",),
    "weights-mismatch": ("checkpoint-mismatch",),
}
"""The labels whose name is not that of our class. A warm-up after the graphs is labelled with them, and is a class of ours with the trial run."""

SIGNATURES: Mapping[str, tuple[str, ...]] = {
    "fabric-not-ready": ("fabric-manager",),
    "gpu-feature-unsupported": ("memory-not-told", "no-kernel-for-this-gpu", "operation-not-supported"),
    "graph-capture": ("ascend-capture", "captured-event", "stream-capture"),
    "illegal-instruction": ("illegal-instruction", "kernel-invalid-opcode"),
    "kernel-resources": ("kernel-resources",),
    "no-device": ("no-device",),
    "quant-no-device": ("quantisation-no-device",),
}
"""Labels that are finer than our class: of it only these signatures, and their remedies, are right."""

DEBATABLE: Mapping[str, tuple[str, ...]] = {
    "sglang-cugreenctx-undefined-driver-or-build.log": ("driver-too-old",),
    "sglang-sgl-kernel-undefined-symbol.log": ("environment",),
    "trap-400-traceback-then-device-assert.log": ("gpu-fault",),
    "trtllm-additional-executor-resources.log": ("gpu-oom-profile",),
}
"""
Logs whose label is debatable, and the class that counts as right beside it.

A kernel package that was built against another PyTorch is a wrong build as well as a broken environment; one that asks the driver
for a function of a later CUDA shows a driver that is too old as well. TensorRT-LLM's
component of that name is allocated after the KV cache, for the largest batch.
The assertion log shows an assertion on an index and no word of NaN. Its label, ``nan-logits``, is that of its thread, where the index
came from a row of NaN; in other threads the same assertion came from a draft model with fewer positions.
"""


RELABELLED: Mapping[str, str] = {
    "llamacpp-gemma3-has-mtmd-assert.log": "engine-assert",
    "llamacpp-mamba-seq-id-assert-under-gdb.log": "engine-assert",
    "sglang-awq-moe-missing-argument.log": "engine-assert",
    "sglang-ci-scheduled-extend-len-out-of-bounds.log": "engine-assert",
    "sglang-glm45v-no-capture-aux-hidden-states.log": "engine-assert",
    "sglang-scheduler-without-token-to-kv-pool.log": "engine-assert",
    "sglang-standalone-draft-merge-batch-sizes-of-tensors.log": "engine-assert",
    "tgi-vision-warmup-tensors-on-two-devices.log": "engine-assert",
    "trtllm-bls-next-blocks-assertion.log": "engine-assert",
    "trtllm-fp4-moe-error-occurred-when-running-gemm.log": "engine-assert",
    "vllm-cpu-offload-reinitialize-batch.log": "engine-assert",
    "vllm-nccl-unhandled-cuda-error-says-run-with-debug.log": "nccl-error",
    "vllm-qwen25-vl-video-grid-index-at-profile.log": "engine-assert",
    "vllm-qwen3-vl-eagle3-proposer-has-no-positions.log": "engine-assert",
    "vllm-qwen35-rmsnormgated-no-attribute-activation.log": "engine-assert",
    "vllm-ray-nccl-unhandled-system-error.log": "nccl-error",
    "vllm-tpu-qwen3-vl-operand-types.log": "engine-assert",
    "vllm-v0-prefix-caching-out-must-have-shape.log": "engine-assert",
    "vllm-two-l4-no-broadcast-block-and-nothing-else.log": "hang-workers",
}
"""
Logs whose label is ``unknown``, from a time when no class said as little as their line does: that a check or an operation in the
engine's code failed, or that NCCL did, without its reason, or that the workers hang. The blind scores keep the label; the scores after mending count these.
"""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One log of the corpus."""

    name: str
    label: str
    ended: Evidence
    text: bytes

    @property
    def healthy(self) -> bool:
        return self.label == "healthy"

    @property
    def now(self) -> str:
        """The label with the classes of today."""
        return RELABELLED.get(self.name, self.label)

    def read(self, *, known: Catalogue | None = None, text: bytes | None = None) -> LogReader:
        """What it says, to the catalogue of the engine that is recognised in it."""
        mine = self.text if text is None else text
        return read([mine], known or CATALOGUES.get(engine_of([mine]) or "") or ALL)

    def right(self, found: Diagnosis | None) -> bool:
        """Whether *found* is what the label says."""
        if found is not None and found.kind in DEBATABLE.get(self.name, ()):
            return True
        if found is None or found.kind not in CLASSES.get(self.now, (self.now,)):
            return False
        if found.signature not in SIGNATURES.get(self.label, (found.signature,)):
            return False
        return self.label != "oom-graphs" or found.kind == "gpu-oom-graphs" or found.phase == "warm-up"


def labelled(folder: Path = FOLDER) -> Iterator[Labelled]:
    """Every log of *folder* by the label in its head, then this repository's recorded boots by `recorded.tsv`."""
    for path in sorted(folder.glob("*.log")):
        lines, head = path.read_bytes().split(b"\n"), {}
        while lines and lines[0].startswith(b"# "):
            key, _, value = lines.pop(0)[2:].decode("utf-8", "replace").partition(": ")
            head[key] = value
        yield Labelled(path.name, head["class"].split(" (")[0], evidence(head["ended"]), b"\n".join(lines))
    if folder == FOLDER:
        for row in RECORDED.read_text(encoding="utf-8").splitlines()[1:]:
            name, label = row.split("\t")
            yield Labelled(name, label, Evidence(), (ROOT / name).read_bytes())


def evidence(ended: str) -> Evidence:
    """What the head of a log says of its end."""
    found = re.search(r"exit code (-?\d+)|signal (\d+)", ended)
    code = None if found is None else int(found[1]) if found[1] else -int(found[2])
    killed = True if re.search(r"OOMKilled ?[=:] ?true|Reason:? OOMKilled|oom_kill [1-9]", ended) else None
    return Evidence(exit_code=code, oom_killed=False if "OOMKilled=false" in ended else killed)


def score(folder: Path = FOLDER) -> tuple[Counter[str], Counter[tuple[str, str]], list[str]]:
    """How many of each kind, the confusion table, and what went wrong."""
    counts: Counter[str] = Counter()
    table: Counter[tuple[str, str]] = Counter()
    wrong = []
    for each in labelled(folder):
        state, found = assess(each.read(), each.ended)
        claim = found.kind if found and found.kind != "unknown" else None
        label = "healthy" if each.healthy else each.now
        table[label, claim or state] += 1
        counts["healthy" if each.healthy else "unknown" if label == "unknown" else "failures with a cause"] += 1
        counts["claims"] += claim is not None
        if each.healthy:
            counts["healthy called failed"] += state in ("failed", "impaired")
        counts["right"] += claim is not None and not each.healthy and each.right(found)
        if (claim is not None and not each.right(found)) or (claim is None and label not in ("healthy", "unknown")):
            wrong.append(f"{each.name}: {label}, found {claim or state}: {found.cause if found else ''}")
    return counts, table, wrong


def page(folder: Path = FOLDER) -> Iterator[str]:
    """The scores and the confusion table in Markdown."""
    counts, table, wrong = score(folder)
    yield "| | |\n| --- | --- |"
    yield from (
        f"| {name} | {counts[name]} |"
        for name in ("healthy", "healthy called failed", "failures with a cause", "unknown", "claims", "right")
    )
    yield "\n| label | found as |\n| --- | --- |"
    for label in sorted({label for label, _ in table}):
        found = ", ".join(f"{claim} {count}" for (mine, claim), count in sorted(table.items()) if mine == label)
        yield f"| {label} | {found} |"
    if wrong:
        yield "\nNot as labelled:\n"
        yield from (f"- {line[:200]}" for line in wrong)


if __name__ == "__main__":
    print("\n".join(page(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)))
