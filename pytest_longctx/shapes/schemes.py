"""Readers of ``quantization_config``, one for each method. An unknown method is refused by name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.modules import Modules
from pytest_longctx.shapes.quantization import CODINGS, PLAIN_SCHEME, Coding, Scheme


def read_scheme(k: Keys) -> Scheme:
    """Return the quantisation scheme in which the model's weights are stored."""
    q = k.table("quantization_config") or k.table("compression_config")
    if q is None:
        return PLAIN_SCHEME
    method = q.word("quant_method") or ("modelopt" if _older_modelopt(q) else None)
    if method is None:
        algorithm = q.word("quant_algo")  # vLLM takes such a table for no quantisation, and the weights for 16 bits
        raise q.refuse("quant_method", f"this key is missing{f' beside quant_algo {algorithm}' if algorithm else ''}")
    reader = METHODS.get(method.lower().replace("-", "_"))
    if reader is None:
        raise q.refuse("quant_method", f"unknown quantisation method: {shown(method)}")
    return reader(q)


def _older_modelopt(q: Keys) -> bool:
    """Whether the table is ModelOpt's older one, which vLLM knows by its producer or by a key."""
    producer, inner = q.table("producer"), q.table("quantization")
    if inner is None:
        return False
    return (producer is not None and producer.word("name") == "modelopt") or inner.has("modelopt_quant_config")


def with_experts(scheme: Scheme, k: Keys) -> Scheme:
    """Return a quantisation scheme with the separate dtype of DeepSeek V4's experts."""
    dtype = k.word("expert_dtype")
    if dtype is None or scheme.coding is None:
        return scheme
    if dtype not in ("fp4", "fp8"):
        raise k.refuse("expert_dtype", f"unknown dtype: {shown(dtype)}")
    own = ((Modules.of(["mlp.experts"]), CODINGS["MXFP4"]),) if dtype == "fp4" else ()
    return replace(scheme, chosen=own + scheme.chosen)


def _modules(q: Keys, *keys: str) -> Modules:
    names: list[str] = []
    for key in keys:
        value = q.raw(key)
        value = [value] if isinstance(value, str) else value
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise q.refuse(key, "must be a list of names")
        names += value
    return _compiled(q, keys[0], names)


def _compiled(q: Keys, key: str, names: list[str]) -> Modules:
    try:
        return Modules.of(names)
    except (re.error, RecursionError, OverflowError) as problem:
        raise q.refuse(key, f"invalid regular expression: {problem}") from None


def _fp8(q: Keys) -> Scheme:
    kept = _modules(q, "modules_to_not_convert", "ignored_layers", "ignore")
    block = q.numbers("weight_block_size")
    if block is None:
        return Scheme("fp8", CODINGS["FP8"], kept)
    if len(block) != 2 or not all(block):
        raise q.refuse("weight_block_size", f"must be two numbers; found {shown(block)}")
    return Scheme("fp8", Coding(8, 4, group=block[1], block_rows=block[0]), kept)


def _fbgemm(q: Keys) -> Scheme:
    return Scheme("fbgemm_fp8", Coding(8, 4), _modules(q, "modules_to_not_convert"))


def _mxfp4(q: Keys) -> Scheme:
    return Scheme("mxfp4", CODINGS["MXFP4"], _modules(q, "modules_to_not_convert"), experts_only=True)


def _awq(q: Keys) -> Scheme:
    bits, group = q.count("bits", "w_bit", default=4), q.count("group_size", "q_group_size", default=128, least=-1)
    zero = bits / 8 if q.flag("zero_point", default=True) else 0
    return Scheme("awq", Coding(bits, 2 + zero, group=max(group, 0)), _modules(q, "modules_to_not_convert"))


def _gptq(q: Keys) -> Scheme:
    kept: list[str] = []
    for pattern, value in (q.raw("dynamic") or {}).items() if isinstance(q.raw("dynamic"), Mapping) else ():
        if isinstance(pattern, str) and pattern.startswith("-:"):
            kept.append(f"re:{pattern[2:]}")
        elif value != {}:  # without one of these signs, an empty table overrides nothing
            raise q.refuse("dynamic", f"different bit widths per module are not supported: {shown(value)}")
    for key in ("extra_config", "layer_config"):
        if q.raw(key):
            raise q.refuse(key, "different bit widths per module are not supported")
    coding, only = _gptq_coding(q), q.raw("modules_in_block_to_quantize")
    left, head = _compiled(q, "dynamic", kept), q.flag("lm_head")
    if not only:
        return Scheme("gptq", coding, left, head=head)
    names = [name for group in only if isinstance(group, list) for name in group] if isinstance(only, list) else []
    names += [name for name in only if isinstance(name, str)] if isinstance(only, list) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise q.refuse("modules_in_block_to_quantize", f"must be a list of names; found {shown(only)}")
    chosen = ((_compiled(q, "modules_in_block_to_quantize", names), coding),)
    return Scheme("gptq", None, left, chosen, head=head)


def _gptq_coding(q: Keys) -> Coding:
    bits, group = q.count("bits"), q.count("group_size", default=128, least=-1)
    return Coding(bits, 2 + bits / 8, group=max(group, 0), column_bytes=4 if q.flag("desc_act") else 0)


def _auto_round(q: Keys) -> Scheme:
    """
    Return the scheme of AutoRound, which packs integers as GPTQ does, or the small floats of MX and NV; some modules
    have bits of their own.
    """
    bits, data = q.count("bits"), q.word("data_type") or "int"
    floats = {("mx_fp", 4): "MXFP4", ("mx_fp", 8): "MXFP8", ("nv_fp", 4): "NVFP4"}
    kind = next((floats[name, size] for name, size in floats if data.startswith(name) and size == bits), None)
    if kind is None and data != "int":
        raise q.refuse("data_type", f"weights with {bits} bits of type {shown(data)} are not supported")
    coding = CODINGS[kind] if kind else _gptq_coding(q)
    kept, table = [], q.table("extra_config")
    for name in _names(q, "extra_config") if table is not None else ():
        own = table.table(name) if table is not None else None
        size = own.maybe("bits") if own else None
        if size is not None and size >= 16:
            kept.append(f"re:{name}" if re.search(r"[*+?\\\[(|^$]", name) else name)
        elif size not in (None, bits) or (own and own.maybe("group_size") not in (None, q.maybe("group_size"))):
            raise q.refuse("extra_config", f"different bit widths per module are not supported: {shown(name)}")
    if q.raw("layer_config"):
        raise q.refuse("layer_config", "different bit widths per module are not supported")
    return Scheme("auto-round", coding, _compiled(q, "extra_config", kept), head=q.flag("lm_head"))


def _bitsandbytes(q: Keys) -> Scheme:
    kept = _modules(q, "llm_int8_skip_modules")
    if q.flag("load_in_4bit") or q.flag("_load_in_4bit"):
        scale = 1 + 4 / 256 if q.flag("bnb_4bit_use_double_quant") else 4
        return Scheme("bitsandbytes", Coding(4, scale, group=64), kept)
    return Scheme("bitsandbytes", Coding(8, 4), kept)


def _weights(q: Keys, group: Keys) -> Coding | None:
    """Return the coding of one group in the scheme of compressed-tensors; None if its weights are not quantised."""
    weights = group.table("weights")
    if weights is None:
        return None
    bits, kind = weights.count("num_bits"), weights.word("type", "int")
    strategy = weights.word("strategy") or "tensor"
    if bits == 4 and kind == "float":
        return CODINGS["NVFP4" if weights.count("group_size", default=16) == 16 else "MXFP4"]
    size = weights.count("group_size", default=0, least=-1)
    if bits == 8 and kind == "float" and strategy == "group" and size == 32:
        return CODINGS["MXFP8"]
    if strategy == "block":
        block = weights.numbers("block_structure") or [128, 128]
        if len(block) != 2 or not all(block):
            raise weights.refuse("block_structure", f"must be two numbers; found {shown(block)}")
        return Coding(bits, 4, group=block[1], block_rows=block[0])
    zero = 0.0 if weights.flag("symmetric", default=True) else bits / 8
    if strategy in ("group", "tensor_group"):
        return Coding(bits, 2 + zero, group=max(size, 0))
    if strategy in ("channel", "tensor"):
        return Coding(bits, 2 + zero, group=-1 if strategy == "tensor" else 0)
    raise q.refuse("config_groups", f"unknown strategy: {shown(strategy)}")


def _compressed(q: Keys) -> Scheme:
    if q.raw("sparsity_config") and (s := q.table("sparsity_config")) and s.word("format", "dense") != "dense":
        raise q.refuse("sparsity_config", "sparse weights are not supported")
    return Scheme("compressed-tensors", None, _modules(q, "ignore"), _groups(q), kv_dtype=_kv_dtype(q))


_CLASS = re.compile(r"(?!Linear$)[A-Z]\w*$")
"""The name of a class of modules. ``Linear`` is excepted, because it stands for all classes."""


def _groups(q: Keys) -> tuple[tuple[Modules, Coding | None], ...]:
    groups = q.table("config_groups")
    if groups is None:
        raise q.refuse("config_groups", "this key is missing")
    chosen = []
    for name in _names(q, "config_groups"):
        group = groups.table(name)
        if group is not None:
            targets = _modules(group, "targets") if group.raw("targets") else Modules(all=True)
            coding = _weights(q, group)
            if coding is not None and (unknown := [each for each in group.raw("targets") or () if _CLASS.match(each)]):
                raise q.refuse("config_groups", f"it is not known which modules have the class {shown(unknown[0])}")
            chosen.append((targets, coding))
    # Those that name modules come before the one that means all.
    return tuple(sorted(chosen, key=lambda pair: pair[0].all))


def _names(q: Keys, key: str) -> list[str]:
    value = q.raw(key)
    return [name for name in value if isinstance(name, str)] if isinstance(value, Mapping) else []


def _kv_dtype(q: Keys) -> str | None:
    scheme = q.table("kv_cache_scheme") if isinstance(q.raw("kv_cache_scheme"), Mapping) else None
    if scheme is not None and scheme.maybe("num_bits") == 8:
        return "fp8"
    algorithm = q.raw("kv_cache_quant_algo") or q.raw("kv_cache_scheme")
    return "fp8" if algorithm == "FP8" else "nvfp4" if algorithm == "NVFP4" else None


def _unknown(algorithm: str, *others: str) -> str:
    return f"unknown algorithm {shown(algorithm)}; known: {', '.join((*CODINGS, *others))}"


def _modelopt(q: Keys) -> Scheme:
    inner = q.table("quantization") or q
    algorithm = (inner.word("quant_algo") or "").upper()
    kept = _modules(inner, "exclude_modules", "ignore")
    if algorithm == "MIXED_PRECISION":
        return Scheme("modelopt", None, kept, _listed(inner), head=True, kv_dtype=_kv_dtype(inner))
    if algorithm not in CODINGS:
        raise inner.refuse("quant_algo", _unknown(algorithm, "MIXED_PRECISION"))
    return Scheme("modelopt", CODINGS[algorithm], kept, kv_dtype=_kv_dtype(inner))


def _listed(q: Keys) -> tuple[tuple[Modules, Coding | None], ...]:
    """
    Return the codings in ModelOpt's mixed-precision scheme, in which each module has its algorithm; None for modules
    without quantisation.
    """
    by_algorithm: dict[str, list[str]] = {}
    table = q.table("quantized_layers")
    if table is None:
        raise q.refuse("quantized_layers", "this key is missing")
    for name in _names(q, "quantized_layers"):
        entry = table.table(name)
        algorithm = ((entry.word("quant_algo") if entry else None) or "").upper()
        if algorithm not in CODINGS:
            raise q.refuse("quantized_layers", f"{shown(name)}: {_unknown(algorithm)}")
        by_algorithm.setdefault(algorithm, []).append(name)
    return tuple((_compiled(q, "quantized_layers", names), CODINGS[a]) for a, names in by_algorithm.items())


QUARK: Mapping[str, Coding] = MappingProxyType(
    {"fp8_e4m3": Coding(8, 4, group=-1), "int8": Coding(8, 4), "fp4": Coding(4, 1, group=32)}
)


def _quark(q: Keys) -> Scheme:
    if q.raw("layer_quant_config") or q.raw("layer_type_quant_config"):
        raise q.refuse("layer_quant_config", "different number formats per module are not supported")
    everywhere = q.table("global_quant_config")
    weight = everywhere.table("weight") if everywhere else None
    dtype = weight.word("dtype") if weight else None
    if dtype is None or dtype not in QUARK:
        raise q.refuse("global_quant_config", f"unknown dtype of weights: {shown(dtype)}")
    return Scheme("quark", QUARK[dtype], _modules(q, "exclude"))


METHODS: Mapping[str, Callable[[Keys], Scheme]] = MappingProxyType(
    {
        "fp8": _fp8,
        "fbgemm_fp8": _fbgemm,
        "mxfp4": _mxfp4,
        "awq": _awq,
        "gptq": _gptq,
        "auto_round": _auto_round,
        "intel/auto_round": _auto_round,
        "bitsandbytes": _bitsandbytes,
        "compressed_tensors": _compressed,
        "modelopt": _modelopt,
        "modelopt_fp4": _modelopt,
        "modelopt_mixed": _modelopt,
        "nvfp4": _modelopt,
        "quark": _quark,
    }
)


def known_methods() -> list[str]:
    """Return the names of the known quantisation methods."""
    return sorted(METHODS)
