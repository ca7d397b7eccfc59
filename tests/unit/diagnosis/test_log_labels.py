"""Named values of a boot's log select the findings that apply, and its warnings can be expected by a finding."""

import pytest

from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.findings.scope import Conditions, mismatch
from pytest_longctx.findings.verdicts import judge
from pytest_longctx.observation import Observation
from tests.unit import factories

ON_TRITON = factories.finding(scope={"attention_backend": ["TRITON_ATTN", "FLASHINFER*"]})


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"attention_backend": "TRITON_ATTN"}, None),
        ({"attention_backend": "FLASHINFER_MLA"}, None),
        ({"attention_backend": "FLASH_ATTN"}, "attention_backend: FLASH_ATTN is not TRITON_ATTN or FLASHINFER*"),
        ({}, "attention_backend: not in the log; the finding needs TRITON_ATTN or FLASHINFER*"),
    ],
)
def test_a_finding_about_an_attention_backend_is_judged_only_where_the_log_names_it(words, line):
    here = Conditions(factories.deployment(), words=words)
    found = mismatch(ON_TRITON, here, settled=True)
    assert (found and found.line) == line
    assert found is None or not found.elsewhere


def test_before_a_boot_any_attention_backend_may_come():
    assert mismatch(ON_TRITON, Conditions(factories.deployment()), settled=False) is None


def test_a_finding_about_an_architecture_is_judged_only_where_the_log_names_it():
    finding = factories.finding(scope={"architecture": "Llama4*"})
    named = Conditions(factories.deployment(), words={"architecture": "LlamaForCausalLM"})
    found = mismatch(finding, named, settled=True)
    assert found is not None
    assert found.line == "architecture: LlamaForCausalLM is not Llama4*"
    other = Conditions(factories.deployment(), words={"architecture": "Llama4ForCausalLM"})
    assert mismatch(finding, other, settled=True) is None


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("[cuda.py:476] Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN'].", "FLASH_ATTN"),
        ("[cuda.py:416] Using AttentionBackendEnum.TRITON_ATTN backend.", "TRITON_ATTN"),
    ],
)
def test_vllm_names_its_attention_backend_whoever_chose_it(line, name):
    reading = LogReader(Vllm().catalogue)
    reading.feed(line)
    assert reading.told() == {"attention_backend": name}


def test_a_boot_that_falls_back_tells_what_it_warned_of():
    reading = LogReader(Sglang().catalogue)
    for line in (
        "FlashAttention3 only supports fp8_e4m3 if using FP8; Setting attention backend to triton.",
        "Using FP8 KV cache but no scaling factors provided. Defaulting to scaling factors of 1.0.",
    ):
        reading.feed(line)
    assert reading.told() == {"attention_backend": "triton", "notices": "falls-back-to-triton, no-scales"}


@pytest.mark.parametrize(
    ("notices", "word", "why"),
    [
        ("no-scales, falls-back", "holds", ""),
        ("falls-back-to-triton", "broken", "notice: falls-back-to-triton, wanted falls-back"),
        (None, "broken", "notice: none in the log, wanted falls-back"),
    ],
)
def test_a_finding_that_expects_a_fallback_is_broken_where_there_was_none(notices, word, why):
    finding = factories.finding(expect={"notice": "falls-back"})
    seen = Observation("serves", words={"notices": notices} if notices else {})
    verdict = judge(finding, seen)
    assert (verdict.word, verdict.why) == (word, why)
