"""
A vLLM plugin that rounds keys and values before they are stored, to see what a KV-cache dtype does on a CPU that has none.

It computes the rounding of a dtype by itself: what it shows is the dtype, not the engine's kernels for it. The name of a form in the
file that ``LONGCTX_ROUNDED`` names takes effect at once; an empty file stores them as they are. `write_plugin` makes its folder.
"""

import os
import sys
from pathlib import Path
from typing import Any

CONTROL = "LONGCTX_ROUNDED"
FORMS = ("float16", "bfloat16", "e4m3", "e5m2", "int8-per-token-head", "e4m3-read-as-e5m2")
"""The last is written in one format of eight bits and read in another: a cache that garbles."""
_MODULE = "longctx_rounded_cache"


def write_plugin(folder: Path) -> dict[str, str]:
    """Write the plugin and its control file into *folder*; return the environment variables of a server with it."""
    info = folder / f"{_MODULE}-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (folder / f"{_MODULE}.py").write_bytes(Path(__file__).read_bytes())
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_MODULE}\nVersion: 0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{_MODULE} = {_MODULE}:install\n", encoding="utf-8")
    control = folder / "form"
    control.write_text("", encoding="utf-8")
    return {"PYTHONPATH": str(folder), CONTROL: str(control)}


def rounded(tensor: Any, form: str) -> Any:
    """The *tensor* of keys or values (tokens, heads, dimensions) after it was stored in *form* and read."""
    import torch

    if form == "int8-per-token-head":
        scale = tensor.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
        return torch.round(tensor / scale).clamp(-127, 127) * scale
    if form == "e4m3-read-as-e5m2":
        written = tensor.clamp(-448, 448).to(torch.float8_e4m3fn)
        return torch.nan_to_num(written.view(torch.float8_e5m2).to(tensor.dtype), posinf=57344, neginf=-57344)
    kinds = {
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
    }
    kind = kinds[form]
    most = torch.finfo(kind).max
    return tensor.clamp(-most, most).to(kind).to(tensor.dtype)


def install() -> None:
    """Wrap what vLLM's CPU build stores in its KV cache; vLLM calls it in each process."""
    from vllm.v1.attention.backends import cpu_attn

    owner = cpu_attn.CPUAttentionBackendImpl
    true = owner.do_kv_cache_update

    def do_kv_cache_update(self: Any, layer: Any, key: Any, value: Any, *rest: Any) -> Any:
        form = Path(os.environ[CONTROL]).read_text(encoding="utf-8").strip()
        if form:
            key, value = rounded(key, form), rounded(value, form)
        return true(self, layer, key, value, *rest)

    owner.do_kv_cache_update = do_kv_cache_update
    print(f"keys and values are rounded as {os.environ[CONTROL]} says", file=sys.stderr)
