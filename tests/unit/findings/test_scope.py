from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Conditions, Mismatch, machine_lacks, mismatch
from tests.unit import factories

H200_8 = Hardware("H200", 8)

SCOPE = {"backend": "vllm", "version": "==0.12.*", "hardware": "8xH200", "model": "llama*", "deployment": "tiny"}


def here(
    *, hardware: Hardware | None = None, version: str | None = None, limit: int | None = None, **deployment: Any
) -> Conditions:
    return Conditions(factories.deployment(**deployment), hardware, version, limit)


def served(prompt_tokens: int, **ask: int) -> Finding:
    return factories.finding(question="served", ask={"prompt_tokens": prompt_tokens, **ask})


@pytest.mark.parametrize("settled", [False, True])
def test_a_finding_without_scope_speaks_about_every_server(settled):
    assert mismatch(factories.finding(), here(), settled=settled) is None


@pytest.mark.parametrize("settled", [False, True])
def test_a_finding_speaks_about_the_server_its_scope_describes(settled):
    known = here(hardware=H200_8, version="0.12.1", model={"name": "llama-4-scout"})
    assert mismatch(factories.finding(scope=SCOPE), known, settled=settled) is None


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize(
    ("scope", "known", "depth", "line"),
    [
        ({"deployment": "big"}, {}, 0, "deployment: tiny is not big"),
        ({}, {"only_named": True}, 0, "deployment: tiny is judged only by findings that name it"),
        ({"backend": ["vllm", "sglang"]}, {"backend": "miniature"}, 1, "backend: miniature is not vllm or sglang"),
        ({"model": "qwen*"}, {}, 2, "model: llama is not qwen*"),
        ({"hardware": "8xH200"}, {"hardware": Hardware("H200", 4)}, 3, "hardware: 4xH200 is not 8xH200"),
        ({"hardware": "8xH200"}, {"hardware": Hardware("cpu")}, 3, "hardware: cpu is not 8xH200"),
        ({"version": "==0.12.*"}, {"version": "0.13.0"}, 5, "version: 0.13.0 is not ==0.12.*"),
    ],
)
def test_the_line_that_does_not_match_is_told_before_and_after_a_boot(scope, known, depth, line, settled):
    assert mismatch(factories.finding(scope=scope), here(**known), settled=settled) == (depth, line)


def test_a_deployment_needs_what_its_file_says_whatever_the_finding_says():
    small = Conditions(factories.deployment(hardware="8xH200"), Hardware("H200", 2))
    line = "hardware: needs 8xH200, this machine has 2xH200"
    assert mismatch(factories.finding(), small, settled=False) == (4, line)
    assert mismatch(factories.finding(scope={"hardware": "8xH200"}), small, settled=False) == (4, line)


@pytest.mark.parametrize(
    ("scope", "depth", "line"),
    [
        ({"hardware": "8xH200"}, 3, "hardware: unknown; the finding needs 8xH200; set --longctx-hardware"),
        ({"version": "==0.12.*"}, 5, "version: unknown; the finding needs ==0.12.*"),
    ],
)
def test_what_is_not_known_may_match_until_the_server_is_up(scope, depth, line):
    finding = factories.finding(scope=scope)
    assert mismatch(finding, here(), settled=False) is None
    assert mismatch(finding, here(), settled=True) == (depth, line)


def test_the_hardware_a_deployment_names_counts_where_the_machine_is_not_known():
    named = Conditions(factories.deployment(hardware="8xH200"))
    assert mismatch(factories.finding(scope={"hardware": "8xH200"}), named, settled=True) is None
    assert mismatch(factories.finding(scope={"hardware": "cpu"}), named, settled=True) == (
        3,
        "hardware: 8xH200 is not cpu",
    )


def test_the_first_line_that_does_not_match_is_the_one_that_is_told():
    wrong = {
        "deployment": "big",
        "backend": "sglang",
        "model": "qwen",
        "hardware": "cpu",
        "version": "==0.5.*",
    }
    depths = []
    while wrong:
        found = mismatch(factories.finding(scope=wrong), here(hardware=H200_8, version="0.12.0"), settled=True)
        assert found is not None
        depths.append(found.depth)
        del wrong[found.line.partition(":")[0]]
    assert depths == sorted(set(depths)) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize(("depth", "elsewhere"), [(0, True), (1, True), (2, True), (3, False), (5, False), (6, False)])
def test_a_miss_by_deployment_backend_or_model_is_elsewhere(depth, elsewhere):
    assert Mismatch(depth, "line").elsewhere is elsewhere


def test_a_deployment_that_is_only_for_findings_that_name_it_serves_those():
    alone = here(only_named=True)
    assert mismatch(factories.finding(scope={"deployment": "ti*"}), alone, settled=True) is None


def test_a_deployment_for_some_questions_serves_those_and_findings_that_name_it():
    alone = here(only_questions=["repeated"])
    line = "deployment: tiny is judged only by findings that ask repeated, or that name it"
    assert mismatch(served(10), alone, settled=False) == Mismatch(0, line)
    repeated = factories.finding(question="repeated", ask={"prompt_tokens": 10})
    named = factories.finding(question="served", ask={"prompt_tokens": 10}, scope={"deployment": "tiny"})
    assert mismatch(repeated, alone, settled=False) is mismatch(named, alone, settled=False) is None


@pytest.mark.parametrize("pattern", ["llama-4-scout", "llama-*", "*scout", "llama-?-scout", ["qwen", "llama-4-*"]])
def test_names_may_have_wildcards(pattern):
    known = here(model={"name": "llama-4-scout"})
    assert mismatch(factories.finding(scope={"model": pattern}), known, settled=True) is None
    assert (
        mismatch(factories.finding(scope={"model": pattern}), here(model={"name": "LLAMA"}), settled=True) is not None
    )


def test_prompt_and_answer_must_fit_together():
    assert mismatch(served(90, output_tokens=10), here(limit=100), settled=True) is None
    line = "context: 91 + 10 tokens exceed max_model_len 100"
    assert mismatch(served(91, output_tokens=10), here(limit=100), settled=True) == (6, line)


@given(st.integers(1, 10**7), st.integers(1, 1000), st.integers(1, 10**7))
def test_a_prompt_is_in_scope_exactly_where_it_fits(prompt_tokens, output_tokens, limit):
    finding = served(prompt_tokens, output_tokens=output_tokens)
    assert (mismatch(finding, here(limit=limit), settled=True) is None) is (prompt_tokens + output_tokens <= limit)


def test_the_limit_a_server_told_wins_over_its_deployment():
    assert mismatch(served(1000), here(limit=2000, max_model_len=500), settled=True) is None
    assert mismatch(served(1000), here(limit=500, max_model_len=2000), settled=True) is not None
    assert mismatch(served(1000), here(max_model_len=500), settled=False) is not None
    assert mismatch(served(10**9), here(), settled=False) is None


def test_a_prompt_that_is_served_must_be_affordable():
    assert mismatch(served(1000), here(longest_prompt=1000), settled=True) is None
    line = "prompt: 1,001 tokens; longest_prompt here is 1,000"
    assert mismatch(served(1001), here(longest_prompt=1000), settled=True) == (6, line)


def test_a_prompt_as_long_as_the_limit_must_be_affordable_and_a_refusal_is_cheap():
    known = here(limit=5000, longest_prompt=1000)
    longest = factories.finding(question="served", ask={"over_limit_tokens": 0, "output_tokens": 8})
    refused = factories.finding(question="over-limit", ask={"over_limit_tokens": 1, "output_tokens": 8})
    found = mismatch(longest, known, settled=True)
    assert found is not None
    assert found.line.startswith("prompt: 4,992 tokens")
    assert mismatch(refused, known, settled=True) is None


@pytest.mark.parametrize(
    ("needs", "has", "lacks"),
    [
        (None, H200_8, False),
        ("8xH200", None, False),
        ("8xH200", H200_8, False),
        ("4xH200", H200_8, False),
        ("cpu", H200_8, False),
        ("8xH200", Hardware("H200", 4), True),
        ("8xH200", Hardware("H100", 8), True),
        ("1xH200", Hardware("cpu"), True),
    ],
)
def test_a_machine_lacks_what_it_has_too_little_of(needs, has, lacks):
    assert (machine_lacks(factories.deployment(hardware=needs), has) is not None) is lacks


@pytest.mark.parametrize(
    ("flags", "off"),
    [
        ({}, None),
        ({"enable-prefix-caching": True}, None),
        ({"enable-prefix-caching": False}, "enable-prefix-caching"),
        ({"no-enable-prefix-caching": True}, "no-enable-prefix-caching"),
        ({"disable-radix-cache": True}, "disable-radix-cache"),
        ({"disable-radix-cache": False}, None),
    ],
)
@pytest.mark.parametrize("question", ["repeated", "reset", "turns"])
def test_a_law_of_the_prefix_cache_does_not_speak_of_a_server_without_one(question, flags, off):
    ask = {"prompt_tokens": 10, **({"turns": 2} if question == "turns" else {})}
    found = mismatch(factories.finding(question=question, ask=ask), here(flags=flags), settled=True)
    assert found == (None if off is None else (0, f"prefix cache: tiny disables it by {off}"))
    named = factories.finding(question=question, ask=ask, scope={"deployment": "tiny"})
    assert mismatch(named, here(flags=flags), settled=True) is None
    assert mismatch(factories.finding(), here(flags=flags), settled=True) is None


AVX2, AMX = frozenset({"avx2"}), frozenset({"avx2", "avx512f", "amx_tile"})


@pytest.mark.parametrize(
    ("scope", "flags", "settled", "line"),
    [
        ({"cpu": ["avx512f", "amx_tile"]}, AVX2, False, "cpu: needs avx512f or amx_tile; this CPU has avx2"),
        (
            {"cpu": ["avx512f", "amx_tile"]},
            frozenset(),
            True,
            "cpu: needs avx512f or amx_tile; this CPU has none of them",
        ),
        ({"cpu": ["avx512f", "amx_tile"]}, AMX, True, None),
        ({"cpu": "avx512f"}, None, False, None),
        ({"cpu": "avx512f"}, None, True, "cpu: unknown; the finding needs avx512f"),
        (
            {"cpu_without": ["avx512f", "amx_tile"]},
            AMX,
            False,
            "cpu: needs no avx512f and no amx_tile; this CPU has avx2, avx512f, amx_tile",
        ),
        ({"cpu_without": ["avx512f", "amx_tile"]}, AVX2, True, None),
        (
            {"cpu": "avx2", "cpu_without": "avx512f"},
            AMX,
            True,
            "cpu: needs avx2 and no avx512f; this CPU has avx2, avx512f, amx_tile",
        ),
    ],
)
def test_a_finding_about_a_cpu_says_what_the_cpu_must_have(scope, flags, settled, line):
    known = Conditions(factories.deployment(), cpu_flags=flags)
    found = mismatch(factories.finding(scope=scope), known, settled=settled)
    assert found == (None if line is None else (4, line))
    assert found is None or not found.elsewhere


@pytest.mark.parametrize("settled", [False, True])
def test_a_finding_about_a_dtype_waits_until_the_machine_has_chosen_it(settled):
    about = factories.finding(scope={"dtype": "bfloat16"})
    assert mismatch(about, here(flags={"dtype": "bfloat16"}), settled=settled) is None
    assert mismatch(about, here(flags={"dtype": "fastest"}), settled=False) is None
    line = "dtype: tiny computes in float32 here; the finding covers bfloat16"
    assert mismatch(about, here(flags={"dtype": "float32"}), settled=settled) == (4, line)


def test_a_prompt_that_this_machine_would_read_too_long_is_out_of_scope():
    one = factories.deployment(longest_prompt_s=300)
    slow = one.model_copy(update={"timeouts": one.timeouts.model_copy(update={"expected_s_per_token_squared": 5e-8})})
    line = "prompt: 131,072 tokens are expected to take 14 min 19 s on this machine; longest_prompt_s of tiny is 300"
    assert mismatch(served(131_072), Conditions(slow, max_model_len=132_000), settled=False) == (6, line)
    assert mismatch(served(32_000), Conditions(slow, max_model_len=132_000), settled=False) is None
    assert mismatch(served(131_072), Conditions(one, max_model_len=132_000), settled=False) is None


@pytest.mark.parametrize(
    ("flags", "applies"),
    [({}, False), ({"b": 1}, True), ({"a": False}, False), ({"a": True, "c": 2}, True), ({"c": 2}, False)],
)
def test_a_finding_about_a_feature_needs_one_of_its_flags(flags, applies):
    found = mismatch(factories.finding(scope={"flags": ["a", "b"]}), here(flags=flags), settled=False)
    assert found == (None if applies else Mismatch(0, "flags: tiny sets none of a, b"))


def test_a_deployment_for_other_versions_of_the_engine_is_out_of_scope():
    line = "version: 0.33.0 is not >=0.25,<0.26, the versions for which tiny is intended"
    deployment = factories.deployment(version=">=0.25,<0.26")
    assert mismatch(factories.finding(), Conditions(deployment, None, "0.33.0"), settled=False) == (5, line)
    for known in ("0.25.1", None):
        assert mismatch(factories.finding(), Conditions(deployment, None, known), settled=True) is None
