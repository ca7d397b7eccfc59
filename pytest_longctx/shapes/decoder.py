"""A decoder with one kind of block, as in most families, and the differences of each family from Llama."""

from collections.abc import Callable
from dataclasses import dataclass

from pytest_longctx.shapes import windows
from pytest_longctx.shapes.attention import Details, Heads, cached, grouped
from pytest_longctx.shapes.config_keys import MOST_LAYERS, Keys
from pytest_longctx.shapes.feedforward import Experts, dense, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.tensors import ANY, Tensor, norm


@dataclass(frozen=True, slots=True)
class Basics:
    """Sizes that every config contains."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


HIDDEN = ("hidden_size", "n_embd", "d_model", "embedding_size")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
VOCABULARY = ("vocab_size", "padded_vocab_size")


def layer_count(k: Keys) -> int:
    """Return the number of decoder layers, which the file must state."""
    return k.stated(*LAYERS, most=MOST_LAYERS)


def basics(k: Keys, *, partial: bool = False) -> Basics:
    """
    Return a decoder's basic sizes. With *partial*, the class's defaults replace a missing number of heads or
    vocabulary.
    """
    read = k.count if partial else k.stated
    hidden, layers = k.stated(*HIDDEN), layer_count(k)
    heads = read(*HEADS)
    kv_heads = k.maybe("num_key_value_heads", "multi_query_group_num", least=1) or heads
    if heads % kv_heads:
        raise k.refuse("num_key_value_heads", f"{heads} heads cannot be divided evenly among {kv_heads} KV heads")
    head_dim = k.maybe("head_dim", "kv_channels", "attention_head_dim", least=1)
    if head_dim is None and hidden % heads:
        raise k.refuse(
            "head_dim",
            f"this key is missing, and the hidden size {hidden} cannot be divided evenly among {heads} heads",
        )
    return Basics(hidden, layers, heads, kv_heads, head_dim or hidden // heads, read(*VOCABULARY))


def ends(k: Keys, hidden: int, vocabulary: int, *, tied: bool = False, bias: bool = False) -> tuple[Tensor, ...]:
    """Return the decoder's input and output embedding tables."""
    table = Tensor("embed_tokens", vocabulary, hidden, shards=ANY)
    offset = (Tensor("lm_head.bias", vocabulary, shards=ANY),) if bias else ()
    if k.flag("tie_word_embeddings", default=tied):
        return (table, *offset)
    return (table, Tensor("lm_head", vocabulary, hidden, shards=ANY), *offset)


ExpertsRule = Callable[[Keys, Basics], tuple[Experts, list[bool]]]


@dataclass(frozen=True, slots=True)
class Decoder:
    """Properties of one family of decoders. A text is the name of the config's key that sets the property."""

    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: str = ""
    """See `Details`; ``KEY?KIND`` if a key of the config decides."""
    gate: str = ""
    sinks: bool = False
    gated: bool = True
    norms: int = 2
    """Normalisations in each layer over the hidden size."""
    norm_bias: bool = False
    final_norm: bool = True
    head_bias: bool = False
    tied: bool = False
    partial: bool = False
    width: tuple[str, ...] = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
    four_times: bool = False
    """A missing width is four times the hidden size."""
    position_rows: int | None = None
    """Additional rows of the table of learned positions beyond the config's number; None: no table."""
    attends: windows.Rule = windows.everything
    experts: ExpertsRule | None = None
    expert_path: str = "mlp"
    additions: Callable[[Keys, Basics], tuple[Tensor, ...]] | None = None
    """Additional tensors of each layer."""

    def __call__(self, k: Keys) -> Body:
        """Return the layers and tables of the model that the config describes."""
        b = basics(k, partial=self.partial)
        heads = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim)
        details = self._details(k)
        attention = grouped(heads, details)
        rest = tuple(t for i in range(self.norms) for t in norm(f"norm{i}", b.hidden, bias=self.norm_bias))
        rest += self.additions(k, b) if self.additions else ()
        layers = [
            Layer((cached(heads, span, window),), (*attention, *rest, *forward))
            for (span, window), forward in zip(self.attends(k, b.layers), self._forward(k, b), strict=True)
        ]
        return Body(b.hidden, b.vocabulary, tuple(layers), self._outside(k, b))

    def _details(self, k: Keys) -> Details:
        kind, _, chosen = self.qk_norm.partition("?")
        qk_norm = kind if not chosen else chosen if k.flag(kind) else ""
        if kind and not chosen and not (k.flag("use_qk_norm", default=True) and k.flag("qk_norm", default=True)):
            raise k.refuse("use_qk_norm", "queries and keys without norms are not supported for this model family")
        return Details(_yes(k, self.qkv_bias), _yes(k, self.o_bias), qk_norm, self.gate, self.sinks)

    def _forward(self, k: Keys, b: Basics) -> list[tuple[Tensor, ...]]:
        if self.experts is None:
            return [self._dense(k, b)] * b.layers
        experts, sparse = self.experts(k, b)
        mixed = mixture(b.hidden, experts, self.expert_path)
        plain = () if all(sparse) else self._dense(k, b)
        for name in self.width:
            k.raw(name)  # files keep it where no layer is dense
        return [mixed if each else plain for each in sparse]

    def _dense(self, k: Keys, b: Basics) -> tuple[Tensor, ...]:
        width = k.maybe(*self.width, least=1) if self.four_times else k.stated(*self.width)
        return dense(b.hidden, width or 4 * b.hidden, gated=self.gated, bias=_yes(k, self.mlp_bias))

    def _outside(self, k: Keys, b: Basics) -> tuple[Tensor, ...]:
        made = ends(k, b.hidden, b.vocabulary, tied=self.tied, bias=self.head_bias)
        made += norm("norm", b.hidden, bias=self.norm_bias) if self.final_norm else ()
        if self.position_rows is not None:
            rows = k.stated("max_position_embeddings", "n_positions", "n_ctx") + self.position_rows
            made += (Tensor("embed_positions", rows, b.hidden),)
        return made


def _yes(k: Keys, choice: bool | str) -> bool:  # noqa: FBT001  # a constant, or the key that decides
    return k.flag(choice) if isinstance(choice, str) else choice
