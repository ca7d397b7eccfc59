"""What `longctx plan` says of a command or of a file: the answer first, then memory, time and lints."""

import json
import shlex
from pathlib import Path

import pytest

from pytest_longctx import cli
from pytest_longctx.errors import UsageError
from pytest_longctx.plan import typed
from pytest_longctx.plan.answer import Answer
from pytest_longctx.plan.planned_server import Given
from tests.unit.factories import LLAMA_8B

MODELS = json.loads((Path(__file__).parent.parent.parent / "data/shapes/models.json").read_text())


@pytest.fixture
def config(tmp_path):
    """A folder with a config.json, Llama 3.1 8B unless something else is given."""

    def write(content: object = LLAMA_8B, name: str = "model") -> Path:
        folder = Path(tmp_path) / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def ask(config):
    """The answers for a command line, on hardware, of a model."""

    def answers(
        line: str,
        hardware: str | None = "8xH200",
        model: object = LLAMA_8B,
        host_gib: float | None = None,
        version: str | None = None,
    ) -> Answer:
        options = typed.Options(hardware, host_gib, Given(config(model), version))
        (found,) = typed.answers(typed.read(shlex.split(line), options))
        return found

    return answers


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve M --tensor-parallel-size 2 --max-model-len 32k",
        "vllm serve M --tensor_parallel 2 --max_model_len=32000",
        "python3 -m vllm.entrypoints.openai.api_server --model M -tp 2 --max-model-len 32000",
        "docker run --shm-size 16g vllm/vllm-openai:v0.33.0 --model M -tp=2 --max-model-len 32k",
        "'vllm serve M -tp 2 --max-model-len 32k'",
    ],
)
def test_each_way_to_start_a_server_is_the_same_plan(ask, line):
    found = ask(line)
    assert found.outcome == "fits"
    assert found.boot.asked.model == "M"
    assert (found.boot.length, found.boot.spread.tensor) == (32_000, 2)
    assert found.boot.prediction == ask("vllm serve M -tp 2 --max-model-len 32000").boot.prediction
    assert found.headline.startswith(f"fits: {int(found.boot.requests)} requests of 32,000 tokens at once")


def test_sglang_counts_requests_by_its_pool(ask):
    found = ask("python -m sglang.launch_server --model-path M --tp 2 --context-length 32k --mem-fraction-static 0.8")
    assert found.outcome == "fits"
    pool = next(term for term in found.boot.prediction.terms if term.name == "KV pool")
    assert found.boot.requests == pytest.approx(pool.size_bytes / 65_536 / 32_000, rel=0.001)


def test_sglang_caps_its_pool(ask):
    line = "sglang serve --model M --context-length 32k --max-total-tokens"
    assert ask(f"{line} 96k").boot.requests == 3.0
    assert ask(f"{line} 96k").boot.unmodelled == ()
    assert ask(f"{line} 16k").headline.startswith("serves, but holds only 15,993 tokens of the 31,993")
    assert ask(f"{line} 16k").outcome == "overcommits"


def test_a_length_above_the_positions_is_refused_with_a_cure_that_was_tried(ask):
    found = ask("vllm serve M --max-model-len 1M", "1xH200")
    assert (found.outcome, found.phase) == ("refuses", "config")
    assert found.kind == found.as_json()["kind"] == "context-not-derived"
    assert found.headline.startswith("refuses, phase config (context-not-derived): max_model_len")
    assert "max_model_len 1,048,576 is above the 131,072 positions" in found.headline
    assert str(found.cures[0]) == "--max-model-len 131072"
    assert found.cures[0].boot.serves
    assert any("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1" in line for line in found.lines())


@pytest.mark.parametrize(
    "line",
    [
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 vllm serve M --max-model-len 256k",
        "docker run --ipc=host -e VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 vllm/vllm-openai:v0.33.0 M --max-model-len 256k",
        """vllm serve M --max-model-len 256k --hf-overrides '{"rope_scaling": {"rope_type": "linear", "factor": 2}}'""",
        "vllm serve M --max-model-len 256k --hf-overrides.max_position_embeddings 300000",
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 sglang serve --model-path M --context-length 256k",
        """sglang serve --model M --context-length 256k --json-model-override-args '{"max_position_embeddings": 300000}'""",
    ],
)
def test_a_length_above_the_positions_may_be_allowed(ask, line):
    assert ask(line).boot.refusals == ()


def test_sglang_does_not_multiply_positions_beside_the_original_ones(ask):
    yarn = {
        **LLAMA_8B,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 131_072},
    }
    assert ask("docker run vllm/vllm-openai:v0.29.0 --model M --max-model-len 256k", model=yarn).boot.refusals == ()
    newer = ask("docker run vllm/vllm-openai:v0.30.0 --model M --max-model-len 256k", model=yarn)
    assert "since 0.30 vLLM does not multiply them" in newer.headline
    refused = ask("sglang serve --model M --context-length 256k", model=yarn)
    assert "SGLang does not multiply them" in refused.headline


def test_what_is_missing_and_where(ask):
    model = {**LLAMA_8B, "num_key_value_heads": 32}
    found = ask("vllm serve M --max-model-len 131072", "1x48GiB", model)
    request = next(term for term in found.boot.prediction.terms if term.name == "KV cache of one request")
    pool = next(term for term in found.boot.prediction.terms if term.name == "KV pool")
    assert found.missing_bytes == request.size_bytes - pool.size_bytes
    assert found.headline.startswith(
        f"{found.outcome}, phase kv_cache (kv-cache-too-small): one request of 131,072 tokens"
    )
    assert all(cure.boot.serves for cure in found.cures)
    assert found.cures


def test_weights_that_do_not_fit_are_cured_by_more_devices(ask):
    found = ask("vllm serve M", "2xH100", MODELS["qwen3-235b"]["config"])
    assert found.headline.startswith("runs out of memory, phase load (gpu-oom-weights): weights ")
    assert [cure.hardware for cure in found.cures] == ["8xH100"]
    assert str(found.cures[0]) == "--tensor-parallel-size 8 on 8xH100"


def test_a_flag_that_the_version_lacks_is_a_refusal_by_the_command_line(ask):
    found = ask("docker run --ipc=host vllm/vllm-openai:v0.25.1 M --swap-space 4")
    assert (found.outcome, found.phase) == ("refuses", "command line")
    assert "--swap-space is not a flag of vllm 0.25.1" in found.headline
    assert str(found.cures[0]) == "without --swap-space"
    assert ask("vllm serve M --swap-space 4", version="0.12.0").outcome == "fits"


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve M --speculative-config.method ngram",
        "vllm serve M --kv-cache-memory-bytes 20G",
        "vllm serve M --enable-lora --max-loras 2",
        "vllm serve M --cpu-offload-gb 4",
        "vllm serve M --num-gpu-blocks-override 100000",
    ],
)
def test_a_flag_whose_memory_is_counted_is_not_named(ask, line):
    assert ask(line).boot.unmodelled == ()


@pytest.mark.parametrize(
    ("line", "more"), [("-tp 2 -dcp 2", "be at most 0: 2 devices hold 4 KV heads"), ("-tp 8 -dcp 3", "must divide")]
)
def test_tokens_are_divided_among_devices_that_share_heads_alone(ask, line, more):
    found = ask(f"vllm serve M {line}", "8xH100", MODELS["qwen3-30b-a3b"]["config"])
    assert (found.outcome, found.phase) == ("refuses", "config")
    assert more in found.headline
    assert all(cure.boot.serves for cure in found.cures)


@pytest.mark.parametrize(
    "spelling", ["--tp 4", "--tp-size 4", "--tensor-parallel-size 4", "--tensor-parallel-size=4", "--tp=4"]
)
@pytest.mark.parametrize("version", ["0.4.9", "0.5.6", "0.5.16", "0.5.23"])
def test_each_spelling_in_each_version_is_the_same_number_of_devices(ask, spelling, version):
    found = ask(f"python -m sglang.launch_server --model M {spelling}", "8xH100", version=version)
    assert found.boot.spread.devices == 4


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("vllm serve M --speculative-config.model x/y", '--speculative-config {"model": "x/y"}'),
        ("vllm serve M --enable-dbo", "--enable-dbo"),
        ("vllm serve M --enable-lora --lora-target-modules q_proj", "--lora-target-modules q_proj"),
        ("sglang serve --model M --swa-full-tokens-ratio 0.5 --cpu-offload-gb 4", "--cpu-offload-gb 4"),
        ("sglang serve --model M --speculative-algorithm NGRAM", "--speculative-algorithm NGRAM"),
    ],
)
def test_a_flag_that_changes_memory_and_is_not_modelled_is_named(ask, line, named):
    found = ask(line)
    assert any(each.startswith(f"{named}: ") for each in found.boot.unmodelled)
    assert "(partial: see what is not modelled)" in found.headline
    assert found.as_json()["partial"]


@pytest.mark.parametrize(
    "line",
    ["vllm serve M -tp 2 --cpu-offload-gb 0", "vllm serve M --kv-cache-dtype fp8", "sglang serve --model M --ep 1"],
)
def test_a_flag_that_changes_nothing_or_is_modelled_is_not(ask, line):
    assert ask(line).boot.unmodelled == ()


def test_the_name_may_say_what_the_config_does_not(ask):
    (said,) = ask("vllm serve acme/Llama-8B-FP8").boot.unmodelled
    assert said.startswith("weights in FP8, according to the model's name")
    assert ask("vllm serve acme/Llama-8B-FP8 --quantization fp8").boot.unmodelled == ()


def test_ranks_of_data_parallelism_have_a_pool_each_and_share_the_experts(ask):
    model, line = MODELS["qwen3-30b-a3b"]["config"], "vllm serve M --max-model-len 32k"
    one, four = ask(line, model=model).boot, ask(f"{line} -dp 4 --enable-expert-parallel", model=model).boot
    weights = [boot.prediction.terms[0].size_bytes for boot in (one, four)]
    assert 0.25 < weights[1] / weights[0] < 0.35
    assert four.spread.devices == 4
    assert four.requests > 4 * one.requests
    hosts = [sum(term.size_bytes for term in boot.prediction.terms if term.host) for boot in (one, four)]
    assert hosts[1] == pytest.approx(4 * hosts[0], rel=0.01)


def test_attention_by_data_parallelism_shares_the_devices(ask):
    found = ask("sglang serve --model M --tp 8 --dp 4 --enable-dp-attention", model=MODELS["qwen3-235b"]["config"]).boot
    assert (found.spread.devices, found.spread.attention, found.spread.experts) == (8, 2, 8)
    assert any(each.startswith("--enable-dp-attention") for each in found.unmodelled)


@pytest.mark.parametrize("word", ["auto", "-1"])
def test_the_longest_that_fits(ask, word):
    model = {**LLAMA_8B, "max_position_embeddings": 10**7}
    found = ask(f"vllm serve M --max-model-len {word}", "1xH200", model)
    assert found.outcome == "fits"
    assert found.boot.length_said.startswith("auto: the longest that fits")
    assert found.boot.length == found.boot.longest
    short = ask(f"vllm serve M --max-model-len {word}", "1xH200")
    assert (short.boot.length, short.boot.length_said) == (131_072, "auto")


@pytest.mark.parametrize(
    ("line", "hardware", "said"),
    [
        (
            "vllm serve M -tp 8 -pp 2",
            "8xH100",
            "tensor parallel 8, pipeline parallel 2 needs 16 devices, and the hardware has 8",
        ),
        (
            "docker run --gpus 2 --ipc=host vllm/vllm-openai M -tp 4",
            "8xH100",
            "needs 4 devices, and the hardware has 2",
        ),
        ("CUDA_VISIBLE_DEVICES=0,1 vllm serve M -tp 4", "8xH100", "needs 4 devices, and the hardware has 2"),
        ("vllm serve M -tp 3", "8xH100", "32 attention heads cannot be divided evenly among 3 tensor-parallel devices"),
        (
            "sglang serve --model M --tp 6 --dp 4 --enable-dp-attention",
            "8xH100",
            "6 devices cannot be divided evenly among 4 data-parallel ranks",
        ),
        ("vllm serve M --max-num-batched-tokens 8 --max-num-seqs 64", "8xH100", "8 is below --max-num-seqs 64"),
        (
            "vllm serve M --no-enable-chunked-prefill --max-num-batched-tokens 4096",
            "8xH100",
            "is below the context of 131,072 tokens",
        ),
        (
            "vllm serve M --gpu-memory-utilization 92",
            "8xH100",
            "--gpu-memory-utilization 92.0 must be above 0 and at most 1",
        ),
        ("vllm serve M --max-num-seqs 0", "8xH100", "--max-num-seqs 0 must be a whole number of at least 1"),
        ("vllm serve M --max-model-len -5", "8xH100", "--max-model-len -5 must be a number of tokens"),
        ("vllm serve M --attention-backend CUTLASS_MLA", "1xH100", "CUTLASS_MLA needs a device of Blackwell"),
        ("sglang serve --model M --attention-backend fa3", "1xB200", "fa3 needs a device of Ampere or Ada or Hopper"),
        ("sglang serve --model M --enable-hierarchical-cache --disable-radix-cache", "1xH100", "needs the radix cache"),
        ("vllm serve M stray", "1xH100", "'stray' is not a flag"),
    ],
)
def test_refusals_that_need_no_memory(ask, line, hardware, said):
    found = ask(line, hardware)
    assert found.outcome == "refuses"
    assert said in found.headline


def test_experts_are_cut_at_the_borders_of_blocks(ask):
    model = {
        **MODELS["qwen3-235b"]["config"],
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"},
    }
    refused = ask("vllm serve M -tp 8", model=model)
    assert "an expert's width of 1536, divided by 8 devices, is not a multiple of its FP8 blocks" in refused.headline
    assert str(refused.cures[0]) == "--enable-expert-parallel"
    assert ask("vllm serve M -tp 4", model=model).boot.refusals == ()


@pytest.mark.parametrize(
    ("connector", "version", "keeps"),
    [("NixlConnector", "0.33.0", True), ("NixlConnector", "0.12.0", False), ("LMCacheConnectorV1", "0.33.0", False)],
)
def test_a_connector_may_switch_the_hybrid_manager_off(ask, connector, version, keeps):
    model, line = MODELS["gemma-3-27b"]["config"], "vllm serve M --max-model-len 100k"
    transfer = shlex.quote(json.dumps({"kv_connector": connector, "kv_role": "kv_both"}))
    plain, moved = (
        next(term for term in found.boot.prediction.terms if term.name == "KV cache of one request")
        for found in (
            ask(f"{line}{more}", model=model, version=version) for more in ("", f" --kv-transfer-config {transfer}")
        )
    )
    assert (plain == moved) is keeps


def test_a_connector_without_hybrids_refuses_states(ask):
    transfer = shlex.quote(json.dumps({"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}))
    found = ask(f"vllm serve M --kv-transfer-config {transfer}", model=MODELS["qwen3-next-80b"]["config"])
    assert found.phase == "kv_cache"
    assert "LMCacheConnectorV1 turns the hybrid KV-cache manager off" in found.headline


def test_a_context_that_no_flag_cures_runs_out_of_memory(ask):
    line = "sglang serve --model M --context-length 1000000M --mem-fraction-static 0.99"
    assert ask(f"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 {line}").outcome == "runs out of memory"


def test_host_memory_of_a_hierarchical_cache(ask):
    line = "sglang serve --model M --tp 8 --enable-hierarchical-cache --hicache-size 100"
    found = ask(line, host_gib=512)
    assert (found.outcome, found.phase) == ("refuses", "kv_cache")
    missing_gib = 800e9 / 2**30 - 502
    assert (
        "hierarchical cache of 8 ranks 745.06 GiB of host memory is requested, but only 502.00 GiB are available"
        in found.headline
    )
    assert found.headline.endswith(f"{missing_gib:.2f} GiB are missing")
    assert str(found.cures[0]) == "--hicache-size 67"
    assert found.cures[0].boot.serves
    assert ask(line, host_gib=1024).outcome == "fits"


def test_a_ratio_that_is_not_asked_for_is_reduced_since_0_5_21(ask):
    line = "sglang serve --model M --tp 8 --enable-hierarchical-cache"
    assert ask(line, host_gib=256, version="0.5.16").phase == "kv_cache"
    assert ask(line, host_gib=256, version="0.5.23").boot.refusals == ()
    assert ask(f"{line} --hicache-ratio 2", host_gib=256, version="0.5.23").phase == "kv_cache"


def test_the_memory_limit_of_a_pod(ask, tmp_path, config):
    pod = {
        "containers": [
            {
                "image": "vllm/vllm-openai:v0.25.1",
                "args": ["M", "-tp", "8"],
                "resources": {"limits": {"nvidia.com/gpu": 8, "memory": "8Gi"}},
            }
        ]
    }
    path = tmp_path / "pod.json"
    path.write_text(json.dumps({"kind": "Pod", "metadata": {"name": "p"}, "spec": pod}))
    (found,) = typed.answers(typed.read([str(path)], typed.Options("8xH200", None, Given(config()))))
    assert found.outcome == "dies"
    assert found.missing_bytes
    assert found.missing_bytes > 0
    assert any(each.startswith("small-shm: 8 workers") for each in found.lints)


@pytest.mark.parametrize("flags", ["-tp 2", "-dp 2", "--tensor_parallel_size=2", "-pp 2", "--tensor-par 2"])
def test_small_shared_memory_is_linted_for_every_kind_of_worker(ask, flags):
    line = "docker run {} vllm/vllm-openai:v0.33.0 M --api-key x " + flags
    assert [each.partition(":")[0] for each in ask(line.format("")).lints] == ["small-shm"]
    assert ask(line.format("--shm-size=8g")).lints == ()


def test_a_name_without_a_config_is_told_what_to_give():
    (found,) = typed.answers(typed.read(["vllm", "serve", "nobody/has-it"], typed.Options("1xH100")))
    assert found.outcome == "not planned"
    assert "the shape of nobody/has-it is not known: there is no config.json at hand; give --model" in found.headline


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vllm serve M --max-model-len $LEN", "--max-model-len has the value of $LEN, which the command does not set"),
        ("vllm serve M --omni", "vLLM-Omni has a command line and a memory of its own"),
    ],
)
def test_a_command_that_says_too_little_is_not_planned(ask, line, said):
    found = ask(line)
    assert found.outcome == "not planned"
    assert said in found.headline


def test_a_variable_on_which_no_memory_depends_is_no_hindrance(ask):
    assert ask("vllm serve M --port $PORT").outcome == "fits"
    assert ask("LEN=8k; vllm serve M --max-model-len $LEN").boot.length == 8000


def test_a_shipped_shape_needs_no_config():
    line = "vllm serve meta-llama/Llama-4-Scout-17B-16E-Instruct -tp 8 --max-model-len 1M --max-num-seqs 8"
    (found,) = typed.answers(typed.read(line.split(), typed.Options("8xH200")))
    assert found.outcome == "fits"
    other = line.replace("Instruct", "Instruct-FP8-dynamic")
    (unknown,) = typed.answers(typed.read(other.split(), typed.Options("8xH200")))
    assert unknown.outcome == "not planned"


def test_the_folder_of_the_command_is_read(config):
    (found,) = typed.answers(typed.read(["vllm", "serve", str(config())], typed.Options("1xH200")))
    assert found.outcome == "fits"


def test_a_config_file_of_flags(ask, tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("tensor-parallel-size: 4\nmax-model-len: 8192\n")
    found = ask(f"vllm serve M --config {path} -tp 2")
    assert (found.boot.spread.tensor, found.boot.length) == (2, 8192)
    path.write_text("- 1")
    with pytest.raises(UsageError, match="the file must map names of flags to values"):
        ask(f"vllm serve M --config {path}")


def test_one_service_that_cannot_be_read_leaves_its_neighbours(tmp_path, config):
    service = {"image": "vllm/vllm-openai:v0.33.0", "command": ["M", "--max-model-len", "8k"]}
    lost = {**service, "command": ["M", "--config", str(tmp_path / "none.yaml")]}
    path = tmp_path / "compose.json"
    path.write_text(json.dumps({"services": {"lost": lost, "good": service}}))
    options = typed.Options("1xH200", None, Given(config()))
    first, second = typed.answers(typed.read([str(path)], options))
    assert (first.outcome, second.outcome) == ("not planned", "fits")
    assert "none.yaml: No such file or directory" in first.headline
    path.write_text(json.dumps({"services": {"lost": lost}}))
    with pytest.raises(UsageError, match=r"none\.yaml"):
        typed.read([str(path)], options)


def test_a_deployment_is_planned_on_its_hardware_with_its_spellings(tmp_path, config):
    config(name="models")
    (tmp_path / "plans").mkdir()
    path = tmp_path / "plans" / "d.toml"
    path.write_text(
        'name = "d"\ntitle = "t"\nbackend = "sglang"\nhardware = "4xH100"\nversion = ">=0.5"\nmax_model_len = 32768\n'
        '[model]\nname = "m"\npath = "models"\n[flags]\ntp-size = 4\nmem-fraction-static = 0.8\n'
    )
    (found,) = typed.answers(typed.read([str(path)], typed.Options()))
    assert (found.outcome, found.boot.spread.tensor, str(found.boot.place)) == ("fits", 4, "4xH100")


def test_a_range_of_versions_is_planned_by_the_newest_that_has_every_flag(tmp_path, config):
    path = tmp_path / "d.toml"
    path.write_text(
        'name = "d"\ntitle = "t"\nbackend = "vllm"\nhardware = "1xH200"\nversion = ">=0.25"\nmax_model_len = 8192\n'
        f'[model]\nname = "m"\npath = "{config()}"\n[flags]\ncalculate-kv-scales = true\n[docker]\nmemory_gib = 1\n'
    )
    (found,) = typed.answers(typed.read([str(path)], typed.Options()))
    assert (found.boot.asked.version, found.boot.refusals) == ("0.27.1", ())
    assert found.boot.place.host_bytes == 2**30
    assert found.outcome == "dies"


def test_a_device_of_unknown_size_is_named(ask):
    found = ask("vllm serve M -tp 32", "trn2.48xlarge")
    assert found.outcome == "not planned"
    assert "not known here" in found.headline or "not modelled" in found.headline


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        (None, "no hardware is named; add"),
        ("8xZ1", "'8xZ1' must be hardware"),
        ("0x80GiB", "must be hardware"),
        ("4xmuchGiB", "must be hardware"),
    ],
)
def test_hardware_that_is_not_known(hardware, said):
    with pytest.raises(UsageError, match=said):
        typed.read(["vllm", "serve", "M"], typed.Options(hardware))


def test_a_size_is_hardware(ask):
    found = ask("vllm serve M -tp 4 --max-model-len 8k", "4x80GiB")
    assert found.outcome in ("fits", "not decided")
    assert str(found.boot.place) == "4x80GiB"


def test_the_console_prints_the_answer_first(config, capsys):
    typed = [
        "plan",
        "--hardware",
        "1xH200",
        "--model",
        str(config()),
        "--",
        "vllm",
        "serve",
        "M",
        "--max-model-len",
        "8k",
    ]
    assert cli.main(typed) == 0
    assert capsys.readouterr().out.startswith("fits: ")
    assert cli.main([*typed[:5], "--json", *typed[5:]]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["outcome"], row["length_tokens"], row["engine"], row["unmodelled"]) == ("fits", 8000, "vllm", [])


@pytest.mark.parametrize(
    "line", ["HF_TOKEN=hunter22 vllm serve M --api-key=hunter22", "ls --api-key hunter22 HF_TOKEN=hunter22"]
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_secret_of_a_command_is_printed(config, capsys, line, form):
    cli.main(["plan", *form, "--hardware", "1xH200", "--model", str(config()), "--", *line.split()])
    said = capsys.readouterr()
    assert "hunter22" not in said.out + said.err
    assert said.out + said.err


def test_a_number_of_tokens_is_no_secret(config, capsys):
    line = "vllm serve M --max-num-batched-tokens=8192 --max-model-len 8192"
    cli.main(["plan", "--hardware", "1xH200", "--model", str(config()), "--", *line.split()])
    assert "8,192 tokens" in capsys.readouterr().out
    cli.main(["plan", "--json", "--hardware", "1xH200", "--model", str(config()), "--", *line.split()])
    assert '"max-num-batched-tokens": 8192' in capsys.readouterr().out


def test_no_secret_of_a_file_is_printed(config, capsys, tmp_path):
    path = tmp_path / "compose.json"
    service = {"image": "vllm/vllm-openai:v0.33.0", "command": "M --api-key hunter22 --max-model-len 8k"}
    path.write_text(json.dumps({"services": {"one": service}}))
    assert cli.main(["plan", "--json", "--hardware", "1xH200", "--model", str(config()), str(path)]) == 0
    out = capsys.readouterr().out
    assert "hunter22" not in out
    assert "***" in out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--hardware", "1xH100", "none.yaml"], "none.yaml: No such file or directory"),
        (["--hardware", "1xH100", "--", "ls", "-l"], "it starts no known engine"),
        (
            ["--hardware", "1xH100", "--model", "nowhere", "--", "vllm", "serve", "M"],
            "--model nowhere: must be a config.json",
        ),
        (["--hardware", "1xH100", "--engine-version", "x", "--", "vllm", "serve", "M"], "'x' must be a version"),
        (
            ["--hardware", "1xH100", "--backend", "sglang", "--", "vllm", "serve", "M"],
            "a command already names the engine",
        ),
        (["--hardware", "1xH100", "--solve"], "--solve applies only to the plan of a command or a file"),
        ([], "the hardware is missing"),
    ],
)
def test_what_cannot_be_planned_is_one_message(typed, said, capsys):
    assert cli.main(["plan", *typed]) == 2
    assert said in capsys.readouterr().err


def test_the_plan_of_findings_shows_what_fits_first_and_counts_the_rest(capsys):
    assert cli.main(["plan", "--hardware", "1xH200", "--backend", "sglang"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [" fits" in line for line in lines if " findings  " in line]
    assert heads == sorted(heads, reverse=True)
    assert True in heads
    assert False in heads
    assert any(line.startswith("out of scope: ") and "deployments: needs 8xH200" in line for line in lines)
    assert not any("findings  out of scope" in line for line in lines)


def test_a_command_in_quotes_may_be_longer_than_the_name_of_a_file(ask):
    line = "vllm serve M " + " ".join(f"--served-model-name name-{number}" for number in range(40))
    found = typed.read([line], typed.Options("1xH100"))
    assert found[0].asked.engine == "vllm"


@pytest.mark.parametrize("value", ["'not json'", "'[1, 2]'", "3"])
def test_a_table_that_is_none_is_a_refusal_by_the_command_line(ask, value):
    found = ask(f"vllm serve M --speculative-config {value}")
    assert (found.outcome, found.phase) == ("refuses", "command line")


def test_key_and_value_heads_are_divided_or_repeated_evenly(ask):
    config = MODELS["qwen3-30b-a3b"]["config"] | {"num_attention_heads": 24, "num_key_value_heads": 8}
    found = ask("vllm serve M -tp 3", "8xH100", config)
    assert (found.outcome, found.phase) == ("refuses", "load")
    assert "8 KV heads cannot be divided or repeated evenly on 3" in found.headline
    assert ask("vllm serve M -tp 4", "8xH100", config).outcome == "fits"


def test_a_flag_that_a_neighbour_of_an_unrecorded_version_has_is_no_refusal(ask):
    """0.20.0 has --moe-backend, which 0.12.0 has not and 0.25.0 has; a flag that neither has is a refusal."""
    assert ask("vllm serve M --moe-backend flashinfer_cutlass", version="0.20.0").outcome == "fits"
    assert ask("vllm serve M --swap-space 4", version="0.20.0").outcome == "fits"
    assert ask("vllm serve M --no-such-flag", version="0.20.0").outcome == "refuses"
    assert ask("vllm serve M --moe-backend flashinfer_cutlass", version="0.12.0").outcome == "refuses"


def test_a_flag_that_the_oldest_recorded_version_has_not_is_said_not_to_be_read(ask):
    found = ask("python -m sglang.launch_server --model M --enable-ep-moe --mem-fraction-static 0.8", version="0.4.2")
    assert found.outcome == "fits"
    assert "--enable-ep-moe" in " ".join(found.boot.asked.notes)
