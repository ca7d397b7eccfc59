"""
Run probe families in vLLM's CPU build, one after the other in one process, and grade every needle.

This is quicker than a server for each (the suites do that: ``-m probe_family``), since torch is imported once:
``python benchmarks/probe_families.py results.json 16000 probe-mamba2 probe-mamba2-damaged``.
"""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

NEEDLES = 63
"""One key less than there are, so that the last answer must be "none"."""

ENGINE_ENV = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


def answer(jobs: Path) -> None:
    """Run in the engine's interpreter: answer each of *jobs*, one line for each."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    for line in jobs.read_text(encoding="utf-8").splitlines():
        job = json.loads(line)
        started = time.monotonic()
        engine = LLM(
            model=job["folder"],
            dtype="bfloat16",
            enforce_eager=True,
            max_num_batched_tokens=2048,
            max_num_seqs=8,
            max_model_len=len(job["ids"]) + 200,
            hf_overrides={"max_position_embeddings": len(job["ids"]) + 256},
            **({"enable_prefix_caching": False} if job["mamba2"] else {}),
        )
        booted = time.monotonic()
        sampling = SamplingParams(temperature=0, max_tokens=job["output_tokens"], ignore_eos=True)
        (answered,) = engine.generate([{"prompt_token_ids": job["ids"]}], sampling, use_tqdm=False)
        took = {"boot_s": round(booted - started, 1), "answer_s": round(time.monotonic() - booted, 1)}
        print("answered", json.dumps(took | {"ids": list(answered.outputs[0].token_ids)}), flush=True)
        del engine
        gc.collect()
        cleanup_dist_env_and_memory()


def main(results: Path, tokens: int, names: list[str]) -> None:
    """Make the probes, ask them, and write what came back to *results*."""
    from pytest_longctx import paths
    from pytest_longctx.probe import checkpoint, codes, grading, questions, registry
    from pytest_longctx.prompts import PromptFactory

    filler, jobs, asked = PromptFactory(1, "probe families", codes.FILLER_IDS)(tokens), [], []
    for name in names:
        family, folder = registry.FAMILIES[name], paths.kept() / "models" / name
        checkpoint.make_family(folder, name)
        asked.append(questions.plant(filler, questions.spread(tokens, NEEDLES, family.windows), family.windows))
        mamba2 = any(layer.kind == "mamba2" for layer in family.layers)
        ids, count = asked[-1].prompt.ids.tolist(), asked[-1].output_tokens
        jobs.append({"folder": str(folder), "ids": ids, "output_tokens": count, "mamba2": mamba2})
    path = results.with_suffix(".jobs")
    path.write_text("\n".join(map(json.dumps, jobs)), encoding="utf-8")
    python = paths.kept() / "engines" / "vllm-cpu" / "bin" / "python"
    command = [str(python), "-I", __file__, str(path)]
    with subprocess.Popen(command, env=os.environ | ENGINE_ENV, stdout=subprocess.PIPE, text=True) as engine:
        lines = (line for line in engine.stdout or () if line.startswith("answered "))
        for name, question, line in zip(names, asked, lines, strict=True):
            got = json.loads(line.removeprefix("answered "))
            grade = grading.ids(question, got.pop("ids"))
            failed = sorted(step.needle.key for step in grade.failures)
            row = {"made": name, "tokens": tokens, "grade": str(grade), "failed_keys": failed, "denied": grade.denied}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | got) + "\n")
            print(row | got, flush=True)
    path.unlink()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        answer(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
