"""Which layers are mixtures of experts, and their number of experts, by the keys of each family."""

from collections.abc import Callable

from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.decoder import Basics, ExpertsRule
from pytest_longctx.shapes.feedforward import Experts
from pytest_longctx.shapes.windows import draft_layers

COUNT = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
USED = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_top_k",
    "experts_per_token",
    "moe_k",
)
WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size")


def routed(k: Keys) -> tuple[int, int]:
    """
    Return the number of experts in a mixture, and of experts per token. All names of these keys are read, so that none
    counts as unknown.
    """
    found = [v for name in USED if k.has(name) for v in [k.raw(name)]]
    used = _first_number(k, found)
    counts = [name for name in COUNT if k.has(name)]
    count = k.stated(*(counts or COUNT))
    for name in counts:
        if k.count(name) != count:
            raise k.refuse(name, f"the value is {k.count(name)}, but {counts[0]} is {count}")
    return count, used or k.count(*USED)


def _first_number(k: Keys, values: list[object]) -> int | None:
    for found in values:
        value = found
        if isinstance(value, list):  # Hunyuan says it for each layer
            if value and all(isinstance(v, int) and v == value[0] for v in value):
                value = value[0]
            else:
                raise k.refuse("moe_topk", f"the layers have different values: {shown(value)}")
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise k.refuse(USED[0], f"must be a whole number; found {shown(value)}")
    return None


def sparse_layers(k: Keys, layers: int, *, first: int = 0) -> list[bool]:
    """
    Return the mixture layers by DeepSeek's rule: the first are dense, then every ``moe_layer_freq``-th is sparse; or a
    list.

    *first* is the number of dense layers if no key states it.
    """
    kinds = k.per_layer("mlp_layer_types", layers, extra=draft_layers(k)) if k.has("mlp_layer_types") else None
    if kinds is not None:
        for kind in kinds:
            if kind not in ("dense", "sparse"):
                raise k.refuse("mlp_layer_types", f"unknown kind of layer: {shown(kind)}")
        for name in ("first_k_dense_replace", "moe_layer_freq", "num_dense_layers"):
            k.raw(name)
        return [kind == "sparse" for kind in kinds]
    first = k.count("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=first, least=0)
    if isinstance(k.raw("moe_layer_freq"), list):
        return [bool(mark) for mark in k.numbers("moe_layer_freq", layers) or []]
    step = k.count("moe_layer_freq", "interleave_moe_layer_step_size", default=1)
    return [i >= first and i % step == 0 for i in range(layers)]


def told_sparse(k: Keys, layers: int) -> list[bool]:
    """
    Return the mixture layers by `sparse_layers`, which the file must state because engine and class have different
    defaults.
    """
    keys = ("mlp_layer_types", "first_k_dense_replace", "num_dense_layers", "moe_layer_freq")
    if not any(k.has(key) for key in keys):
        raise k.refuse(
            "first_k_dense_replace", "this key is missing, and the engine and the model class treat that differently"
        )
    return sparse_layers(k, layers)


def mixed(
    *,
    shared: str = "",
    shared_count: tuple[str, ...] = (),
    shared_gate: bool = False,
    sparse: Callable[[Keys, int], list[bool]] = lambda _, layers: [True] * layers,
    width: tuple[str, ...] = WIDTH,
    gated: bool = True,
    bias: bool = False,
    router_bias: bool = False,
    correction: bool = False,
) -> ExpertsRule:
    """
    Return a rule for mixtures of experts. *shared* is the key of all shared experts' width, *shared_count* of
    their number.
    """

    def rule(k: Keys, b: Basics) -> tuple[Experts, list[bool]]:
        marks = sparse(k, b.layers)
        if not any(marks):
            return Experts(1, 1, 1), marks
        count, used = routed(k)
        each = k.stated(*width)
        together = k.maybe(shared) or 0 if shared else 0
        if shared_count and not together:
            together = (k.maybe(*shared_count) or 0) * each
        made = Experts(
            count,
            used,
            each,
            together,
            shared_gate=shared_gate and together > 0,
            gated=gated,
            bias=bias,
            router_bias=router_bias,
            correction=correction,
        )
        return made, marks

    return rule


def qwen_sparse(k: Keys, layers: int) -> list[bool]:
    """Return the mixture layers of Qwen: every ``decoder_sparse_step``-th, except ``mlp_only_layers``."""
    step = k.count("decoder_sparse_step", default=1)
    plain = set(k.numbers("mlp_only_layers") or [])
    if k.has("num_experts") and k.count("num_experts", least=0) == 0:
        return [False] * layers
    return [i not in plain and (i + 1) % step == 0 for i in range(layers)]


def listed_or(other: Callable[[Keys, int], list[bool]]) -> Callable[[Keys, int], list[bool]]:
    """Return a rule for mixture layers: by ``mlp_layer_types`` if present, otherwise by another rule."""
    return lambda k, layers: sparse_layers(k, layers) if k.has("mlp_layer_types") else other(k, layers)


def llama4_sparse(k: Keys, layers: int) -> list[bool]:
    """Return the mixture layers of Llama 4: a list, or a fixed interval."""
    step = k.count("interleave_moe_layer_step", default=1, least=0)
    listed = k.numbers("moe_layers")
    chosen = set(listed) if listed is not None else set(range(step - 1, layers, step)) if step else set()
    return [i in chosen for i in range(layers)]


def ernie_sparse(k: Keys, layers: int) -> list[bool]:
    """Return the mixture layers of ERNIE 4.5: a fixed interval, from a first to a last layer."""
    step = k.count("moe_layer_interval", default=1)
    first = k.count("moe_layer_start_index", default=0, least=0)
    last = k.raw("moe_layer_end_index")
    end = layers - 1 if last in (None, -1) else k.count("moe_layer_end_index", least=0)
    return [(i + 1) % step == 0 and first <= i <= end for i in range(layers)]


def listed_sparse(key: str) -> Callable[[Keys, int], list[bool]]:
    """
    Return a rule for mixture layers: by a list of booleans (EXAONE's ``is_moe_layer``) if present, otherwise by
    DeepSeek's rule.
    """

    def rule(k: Keys, layers: int) -> list[bool]:
        marks = k.per_layer(key, layers)
        if marks is None:
            return sparse_layers(k, layers)
        k.raw("first_k_dense_replace")
        return [bool(mark) for mark in marks]

    return rule
