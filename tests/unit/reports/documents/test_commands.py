"""Published commands compared with the rendered ones, flag by flag."""

from pathlib import Path

import pytest

from pytest_longctx import cli, paths
from pytest_longctx.backends import versions
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments.deployment import Deployment, Model
from pytest_longctx.errors import TableError
from pytest_longctx.launchers.start_command import StartCommand
from pytest_longctx.reports.documents import commands as published

PAGE = Path(__file__).parents[4] / "docs/reference/commands.md"
ONE = Deployment(
    name="one",
    title="t",
    backend="vllm",
    model=Model(name="m", id="org/m"),
    max_model_len=4096,
    flags={"dtype": "auto"},
)
LINE = "python3 -m vllm.entrypoints.openai.api_server --model org/m --max-model-len 4096 --dtype auto"


def command(text, env=None, **corrected):
    return published.Command(document="d", where="w", text=text, deployment="one", env=env or {}, corrected=corrected)


def page(*commands):
    return published.commands_page(commands, {"one": (Vllm(), ONE)})


def test_the_page_is_that_of_the_data():
    """After a change: ``longctx commands docs/reference``."""
    assert PAGE.read_text(encoding="utf-8") == cli.published_commands()


def test_every_system_of_the_documents_has_a_command():
    commands = published.load(paths.suites() / "commands.toml")
    systems = {"scout-vllm", "scout-sglang", "scout-b200", "mi300x", "llama33"}
    assert {each for each in systems if any(one.deployment.startswith(each) for one in commands)} == systems


@pytest.mark.parametrize(
    "text", [LINE, LINE.replace("--model org/m", "--model=org/m"), "vllm serve org/m --max-model-len 4096 --dtype auto"]
)
def test_the_same_command_in_other_words_does_not_differ(text):
    assert "No difference." in page(command(text))


def test_numbers_are_compared_by_value():
    assert published.documented("--gpu-memory-utilization 0.90") == published.documented("--gpu-memory-utilization=0.9")


def test_a_negative_number_is_a_value_and_the_last_of_a_flag_counts():
    found = published.documented("vllm serve org/m --seed -1 --port 1 --quiet --port 2 -O 3")
    assert found == {"model": "org/m", "seed": "-1", "port": "2", "quiet": ""}
    start = StartCommand(command=("--model", "a", "--model-path", "b", "--model", "c"))
    assert (start.flag("--model", "--model-path"), start.flag("--tp")) == ("c", None)


def test_a_call_reads_like_a_command_line():
    call = 'LLM(\n  model="org/m",  # why\n  max_model_len=4096,\n  enable_x=True,\n  enable_y=False,\n)'
    assert published.documented(call) == {
        "model": "org/m",
        "max-model-len": "4096",
        "enable-x": "",
        "no-enable-y": "",
    }


def test_a_call_of_a_variable_is_refused():
    with pytest.raises(TableError, match="literals"):
        published.documented("LLM(model=name)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINE.replace("4096", "8192"), "without a reason: max-model-len"),
        (f"{LINE} --more", "without a reason: more"),
        (LINE.replace(" --dtype auto", ""), "without a reason: dtype"),
    ],
)
def test_a_difference_needs_a_reason(text, message):
    with pytest.raises(TableError, match=message):
        page(command(text))


def test_a_reason_needs_a_difference():
    with pytest.raises(TableError, match=r"reasons without a difference: \['dtype'\]"):
        page(command(LINE, dtype="because"))


def test_a_difference_stands_on_the_page_with_its_reason():
    assert "| `--dtype` | `half` | `auto` | so |" in page(
        command(LINE.replace("--dtype auto", "--dtype half"), dtype="so")
    )


def test_the_flags_that_are_called_mistakes_are_unknown_to_the_engine():
    assert {each.takes("--swap-space") for each in versions.meant("vllm", ">=0.25")} == {"unknown"}


def test_a_variable_is_compared_like_a_flag():
    """10M tokens depend on a variable, which a comparison of the flags alone does not see."""
    with pytest.raises(TableError, match="without a reason: HYBRID"):
        page(command(LINE, env={"HYBRID": "1"}))
    text = page(command(LINE, env={"HYBRID": "1"}, HYBRID="so"))
    assert "| `HYBRID` | `1` | not there | so |" in text
    assert "HYBRID=1\npython3" in text


def test_the_variable_on_which_10m_tokens_depend_is_published_and_rendered():
    name = "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE"
    (ten_million,) = (
        each for each in published.load(paths.suites() / "commands.toml") if each.deployment == "scout-vllm-10m-fp8"
    )
    assert ten_million.env[name] == "1"
