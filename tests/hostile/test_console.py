"""Deployments with extreme but well-formed values, planned and rendered; and wrong arguments of the console."""

import copy
from contextlib import suppress
from typing import Any

import pytest
import tomli_w
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_longctx import backends, cli, plan, toml
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.errors import LongctxError
from pytest_longctx.launchers import lint
from pytest_longctx.launchers.start_command import of_deployment
from tests.hostile import EXAMPLES

GOOD = {
    "name": "d",
    "title": "t",
    "backend": "vllm",
    "image": "vllm/vllm-openai:v0.12.0",
    "hardware": "1xH200",
    "max_model_len": 131072,
    "longest_prompt": 1000,
    "model": {"name": "scout", "shape": "llama-4-scout"},
    "flags": {"tensor-parallel-size": 1, "gpu-memory-utilization": 0.9, "port": 8000, "block-size": 16},
    "env": {"A": "b"},
    "docker": {"shm_gib": 10.0, "mounts": ["/a:/b"], "ulimits": {"nofile": 1000}},
    "timeouts": {"boot_s": 100.0, "slowest_prefill_tokens_per_s": 100.0, "answer_s": 5.0},
    "version": ">=0.12",
}
VALUES = st.one_of(
    st.sampled_from([0, -1, 1, 2**63 - 1, -(2**63), 10**18, 1e300, 5e-324, 1e-12, 0.0, -0.0, True, False]),
    st.sampled_from(
        [
            "",
            "x" * 300,
            "٣",
            "auto",
            "128Ki",
            "cpu",
            "nope",
            "\u202e",
            "::error::",
            "../..",
            "a b",
            "-",
            "=",
            "1e9",
            ">=x",
        ]
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.text("ab:/ ", max_size=4), max_size=2),
    st.just({}),
)
PLACES = [(key,) for key in GOOD] + [
    (key, inner)
    for key, value in GOOD.items()
    if isinstance(value, dict)
    for inner in (*value, "extra", "max-num-batched-tokens")
]


def test_the_deployment_is_sound_before_it_is_changed(tmp_path, capsys):
    (tmp_path / "deployments").mkdir()
    path = tmp_path / "deployments" / "d.toml"
    path.write_text(tomli_w.dumps(GOOD), encoding="utf-8")
    for launcher in ("process", "docker", "kubernetes"):
        assert cli.main(["render", str(path), f"--launcher={launcher}"]) == 0, capsys.readouterr().err
    assert cli.main(["plan", "--hardware=1xH200", f"--data={tmp_path}"]) == 0
    assert "\nd " in capsys.readouterr().out


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3), st.sampled_from(["vllm", "sglang"])
)
@example([(("flags", "tensor-parallel-size"), 0)], "vllm")
@example([(("flags", "port"), "")], "vllm")
def test_a_deployment_is_planned_linted_and_rendered_or_refused(changes, engine):
    content = copy.deepcopy({**GOOD, "backend": engine})
    for at, value in changes:
        inside: Any = content
        for key in at[:-1]:
            inside = inside[key] if isinstance(inside.get(key), dict) else {}
        inside[at[-1]] = value
    with suppress(LongctxError):
        one = toml.check(content, Deployment, "a deployment")
        backend, here = backends.named(one.backend), Machine(Hardware.parse("8xH200"))
        plan.predict(one, backend, here)
        plan.unpredicted(one, backend)
        plan.expected_ttft_s(one, 1000, here.hardware, backend)
        list(lint.lint(of_deployment(one, backend.package)))
        for render in (cli.process, cli.docker, cli.kubernetes):
            with suppress(LongctxError):
                render(backend, one)


@pytest.mark.parametrize(
    "typed",
    [
        ["plan", "--hardware", "9" * 5000 + "xH200"],
        ["plan", "--hardware", "٣xH200"],
        ["plan", "--hardware", "8xH200", "--data", "/dev/zero"],
        ["compare", "/dev/zero", "/dev/zero"],
        ["render", "/dev/zero.toml"],
        ["render", "a\x00b.toml"],
        ["report", "a\x00b"],
        ["history", "show", "a\x00b"],
        ["engine", "x" * 100_000],
        ["findings", "/proc/none/none"],
        ["merge", "-o", "/dev/full", "/dev/null"],
        ["show", "a\x00b"],
        ["show", "x" * 100_000],
        ["list", "findings", "--data", "/dev/zero"],
        ["record", "/dev/zero"],
        ["record", "a\x00b"],
        ["record", "/dev/null", "--only", "a\x00b"],
        ["init", "a\x00b", "--backend=miniature"],
        ["init", "/proc/none", "--backend=miniature"],
        ["doctor", "--backend", "x" * 100_000],
        ["diagnose", "a\x00b"],
        ["plan", "--hardware=8xH200", "a\x00b.yaml"],
        ["watch", "http://a\x00b:1"],
        ["watch", "http://" + "x" * 5000 + ":1"],
        ["watch", "http://127.0.0.1:1/" + "%zz\r\nHost: other"],
    ],
    ids=lambda typed: f"{typed[0]}-{typed[1][:12]!r}",
)
def test_a_wrong_argument_is_one_message(typed, capsys):
    assert cli.main(typed) == 2
    said = capsys.readouterr().err
    assert said.startswith("longctx: ")
    assert "was not understood" not in said
    assert len(said) < 2000
