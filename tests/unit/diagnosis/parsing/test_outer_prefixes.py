"""Prefixes of collectors of logs that no pattern knows."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.parsing.outer_prefixes import OuterPrefixes

ENGINE = "(EngineCore pid=270) ERROR 11-19 12:16:36 [core.py:842] "
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.47 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.25 GiB is free."
LOG = [
    f"{ENGINE}EngineCore failed to start.",
    f"{ENGINE}Traceback (most recent call last):",
    f'{ENGINE}  File "/x/vllm/v1/worker/gpu_worker.py", line 507, in compile_or_warm_up_model',
    f"{ENGINE}    self.model_runner._dummy_sampler_run(hidden_states)",
    f"{ENGINE}{OOM}",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]
COLLECTORS = [
    "INFO 2025-11-19T20:16:36.096625454Z [resource.labels.containerName: vllm] ",
    "<14>1 2025-11-19T20:16:36Z gke-node-7 fluentbit 1 - - ",
    "llm/vllm-7d9f-x2k[main] 20:16:36 ~ ",
    "job 8812 / task 3 / stderr | ",
]


def cause_of(lines):
    state, found = assess(read(["\n".join(lines).encode()], catalogues()["vllm"]), Evidence())
    return state, found and (found.kind, found.phase)


@pytest.mark.parametrize("prefix", COLLECTORS)
def test_a_log_behind_an_unknown_prefix_says_the_same(prefix):
    assert cause_of([prefix + line for line in LOG]) == cause_of(LOG) == ("failed", ("gpu-oom-profile", "warm-up"))


@pytest.mark.parametrize("prefix", COLLECTORS)
def test_bare_lines_lose_the_prefix_that_the_header_of_a_traceback_taught(prefix):
    lines = [
        "Traceback (most recent call last):",
        '  File "/x/vllm/config/model.py", line 7, in check',
        "ValueError: no",
    ]
    known = OuterPrefixes()
    assert [known.removed(prefix + line) for line in lines] == lines


@pytest.mark.parametrize(
    "line",
    [
        f"+ echo {ENGINE}x",
        f"gateway 7: upstream said {ENGINE}x",
        f"prompt: '{ENGINE}x'",
        f"{ENGINE}Exception in worker 3 while it ran: {ENGINE}x",
    ],
)
def test_a_sentence_or_a_command_before_a_quoted_line_is_no_prefix(line):
    assert OuterPrefixes().removed(line) == line
