"""The script that reads a version of an engine, on two small packages written as the engines write theirs."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VLLM = {
    "vllm/__init__.py": "raise SystemExit('imported')",
    "vllm/config.py": '''
from enum import Enum
from typing import Literal
from pydantic import Field
CacheDType = Literal["auto", "fp8"]
class Level(Enum):
    LOW = "low"
@config
class CacheConfig:
    share: float = Field(default=0.92, gt=0)
    size: int = Field(default=None)
    cache_dtype: CacheDType = "auto"
    names: list[int] | None = None
    prefix: bool = True
    level: Level = Level.LOW
    """Deprecated: says nothing."""
''',
    "vllm/engine/arg_utils.py": """
from vllm.config import CacheConfig
def _compute_kwargs(cls):
    if name in {"size", "other"}:
        kwargs[name]["type"] = human_readable_int
class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        cache_kwargs = get_kwargs(CacheConfig)
        cache_kwargs["names"]["nargs"] = "*"
        group = parser.add_argument_group(title="cache")
        group.add_argument("--share", "-s", **cache_kwargs["share"])
        group.add_argument("--size", **{**cache_kwargs["size"], "default": 3})
        group.add_argument("--kv-cache-dtype", **cache_kwargs["cache_dtype"])
        group.add_argument("--names", **cache_kwargs["names"])
        group.add_argument("--enable-prefix", **cache_kwargs["prefix"])
        group.add_argument("--level", **cache_kwargs["level"])
        if "serve" in sys.argv:
            group.add_argument("--model", type=str, choices=["a"] + ([place()] if place() else []))
        return parser
""",
    "vllm/entrypoints/cli_args.py": """
from vllm.engine.arg_utils import EngineArgs
def make_arg_parser(parser):
    parser.add_argument("--quantization", "-q", default=envs.VLLM_Q, type=lambda s: s.lower())
    parser = EngineArgs.add_cli_args(parser)
    return parser
""",
    "vllm/v1/metrics.py": """
class Stats:
    def __init__(self):
        labelnames = ["model_name"]
        self.waiting = self._gauge_cls(name="vllm:waiting", labelnames=labelnames + ["reason"])
        os.getenv("VLLM_PLACE", "here")
""",
    "vllm/model_executor/models/registry.py": """
_TEXT_GENERATION_MODELS = {"OneForCausalLM": ("one", "One"), "LlamaForCausalLM": ("llama", "Llama")}
_EMBEDDING_MODELS = {**{k: v for k, v in _TEXT_GENERATION_MODELS.items()}, "OneModel": ("one", "One")}
_PREVIOUSLY_SUPPORTED_MODELS = {"OldForCausalLM": "1.0"}  # the last version
_OOT_SUPPORTED_MODELS = {"OtherForCausalLM": "https://example.org/plugin"}
""",
}
FLAGS = {
    "share": {"also": ["-s"], "type": "float", "default": 0.92},
    "size": {"type": "int", "parser": "human_readable_int", "default": 3},
    "kv-cache-dtype": {"type": "str", "choices": ["auto", "fp8"], "default": "auto"},
    "names": {"type": "int", "optional": True, "nargs": "*"},
    "enable-prefix": {"no": ["--no-enable-prefix"], "type": "bool", "default": True},
    "level": {"type": "str", "default": "low", "deprecated": True},
    "model": {"type": "str", "choices": ["a", "*[place()] if place() else []"]},
    "quantization": {"also": ["-q"], "type": "str", "parser": "lambda s: s.lower()", "default": "= envs.VLLM_Q"},
    "help": {"also": ["-h"], "type": "switch"},
}
SGLANG = {
    "sglang/__init__.py": "raise SystemExit('imported')",
    "sglang/srt/server_args.py": """
from sglang.srt.actions import Deprecated
KINDS = ["auto", "fp8"]
class ServerArgs:
    tp_size: A[int, Arg(help="h", cli_name="--tensor-parallel-size", aliases=["--tp"])] = 1
    kv_cache_dtype: A[str, Arg(help="h", choices=KINDS)] = "auto"
    ratio: A[Optional[float], Arg(help="h", fallback=0.8)] = None
    eager: A[bool, "help"] = False
    hidden: A[int, Arg(no_cli=True)] = 1
    @staticmethod
    def add_cli_args(parser):
        add_cli_args_from_dataclass(parser, ServerArgs)
        parser.add_argument("--quantization", default=ServerArgs.kv_cache_dtype, choices=KINDS + ["x"])
        parser.add_argument("--attention-backend", choices=[kind.upper() for kind in KINDS])
        parser.add_argument("--old", action=Deprecated, new_flag="--eager")
""",
    "sglang/srt/models/one.py": "class OneForCausalLM: ...\nclass TwoModel: ...\nEntryClass = [OneForCausalLM, TwoModel]\n",
    "sglang/srt/models/three.py": "class ThreeForCausalLM: ...\nEntryClass = ThreeForCausalLM\n",
    "sglang/srt/models/part.py": "class PartForCausalLM: ...\n",
    "sglang/srt/actions.py": "class Deprecated:\n    def __init__(self, dest, nargs=0): ...\n",
}


NEEDS = "Requires-Dist: transformers<6,>=5.1\nRequires-Dist: transformers[torch]>=4; extra == 'all'\n"
TRANSFORMERS = {
    "transformers/__init__.py": "raise SystemExit('imported')",
    "transformers/models/a/modeling_a.py": """
class AAttention(nn.Module):
    def forward(self): return ALL_ATTENTION_FUNCTIONS.get_interface(self.kind)
class APreTrainedModel(PreTrainedModel):
    _supports_attention_backend = True
class AForCausalLM(APreTrainedModel): ...
class BForCausalLM(APreTrainedModel):
    _supports_attention_backend = False
class AForTokenClassification(APreTrainedModel): ...
""",
    "transformers/models/c/modeling_c.py": "class CAttention(nn.Module): ...\nclass CLMHeadModel(PreTrainedModel): ...\n",
    "transformers/models/c/modular_c.py": "class DForCausalLM(PreTrainedModel): ...\n",
}


def made(tmp_path: Path, engine: str, sources: dict[str, str], *, wheel: bool) -> dict[str, Any]:
    place = tmp_path / ("package.whl" if wheel else "tree")
    if wheel:
        with zipfile.ZipFile(place, "w") as archive:
            for name, source in sources.items():
                archive.writestr(name, source)
            archive.writestr(f"{engine}-1.2.dist-info/METADATA", "Name: x\nVersion: 1.2\n" + NEEDS)
    else:
        for name, source in sources.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(source)
    run = [
        sys.executable,
        "-m",
        "tests.engine_version",
        "make",
        engine,
        str(place),
        *([] if wheel else ["--version", "1.2"]),
    ]
    return tomllib.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("wheel", [True, False])
def test_vllm_is_read_without_being_imported(tmp_path, wheel):
    found = made(tmp_path, "vllm", VLLM, wheel=wheel)
    assert found["version"] == "1.2"
    assert found["flags"] == FLAGS
    assert found["metrics"] == {"vllm:waiting": {"type": "gauge", "labels": ["model_name", "reason"]}}
    assert found["environment"] == {"VLLM_PLACE": "here"}


@pytest.mark.parametrize("wheel", [True, False])
def test_the_architectures_of_vllm_are_those_of_its_registry(tmp_path, wheel):
    found = made(tmp_path, "vllm", VLLM, wheel=wheel)
    assert found["values"]["architectures"] == ["LlamaForCausalLM", "OneForCausalLM", "OneModel"]
    assert found["removed"] == {"OldForCausalLM": "1.0"}
    assert found["requires"] == ({"transformers": "<6,>=5.1"} if wheel else {})


def test_the_architectures_of_sglang_are_its_entry_classes(tmp_path):
    found = made(tmp_path, "sglang", SGLANG, wheel=True)
    assert found["values"]["architectures"] == ["OneForCausalLM", "ThreeForCausalLM", "TwoModel"]
    assert (found["removed"], found["requires"]) == ({}, {"transformers": "<6,>=5.1"})


def test_the_classes_of_transformers_are_sorted_by_their_attention(tmp_path):
    for name, source in TRANSFORMERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    run = [sys.executable, "-m", "tests.engine_version", "classes", tmp_path, "--version", "5.1"]
    assert tomllib.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout) == {
        "version": "5.1",
        "attention_backend": ["AForCausalLM"],
        "attention_interface": ["BForCausalLM"],
        "neither": ["CLMHeadModel"],
    }


def test_sglang_is_read_by_its_annotations(tmp_path):
    found = made(tmp_path, "sglang", SGLANG, wheel=False)
    assert found["flags"] == {
        "tensor-parallel-size": {"also": ["--tp"], "type": "int", "default": 1, "dest": "tp_size"},
        "kv-cache-dtype": {"type": "str", "choices": ["auto", "fp8"], "default": "auto"},
        "ratio": {"type": "float", "fallback": 0.8},
        "eager": {"type": "switch"},
        "quantization": {"type": "str", "choices": ["auto", "fp8", "x"], "default": "auto"},
        "attention-backend": {"type": "str", "choices": ["AUTO", "FP8"]},
        "old": {"type": "switch", "action": "Deprecated", "deprecated": True, "instead": "--eager"},
        "help": {"also": ["-h"], "type": "switch"},
    }


def test_a_difference_is_said_key_by_key(tmp_path):
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text('[flags]\na = { default = 1 }\nb = { choices = ["x", "y"] }\ngone = {}\n[values]\nkinds = ["k"]\n')
    new.write_text('[flags]\na = { default = 2 }\nb = { choices = ["x", "z"] }\ncame = {}\n[values]\nkinds = []\n')
    run = [sys.executable, "-m", "tests.engine_version", "diff", old, new]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines() == [
        "flags: 1 gone, 1 new, 2 different",
        "  - gone",
        "  + came",
        "  ~ a: default 1 -> 2",
        "  ~ b: choices -y +z",
        "kinds: 1 gone, 0 new, 0 different",
        "  - k",
    ]
