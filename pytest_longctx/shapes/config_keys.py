"""
Read the keys of a config.json, and record which keys were read.

A key may remain that no formula here has read. If memory may depend on its name, and its value is neither empty nor the
default of the model's class, the config is refused.
"""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_longctx.shapes.refusal import MisreadError

SMELL = re.compile(
    r"head|dim|size|window|layer|dense|rank|state|expert|pattern|shar|kv|cache|latent|conv|index|compress|sparse|group|block"
    r"|chunk|vocab|intermediate|hidden|ffn|mlp|moe|mtp|nextn|lora|attn|attention|ssm|mamba|linear|interval|freq|stride"
    r"|memory|cross|encoder|num_|^n_|_n_|width|depth|channel|mem_|gate|ratio|expan|embed|tie_|mixer|adapter|_cla|cla_|yoco|loop|repeat|recur|reuse|skip|ngram|lookup|buffer|byte"
)
"""Names of keys that memory may depend on."""

HARMLESS = frozenset(
    """
    architectures auto_map model_type torch_dtype dtype transformers_version _name_or_path name_or_path tokenizer_class
    initializer_range init_std init_method initializer_factor
    hidden_act hidden_activation activation_function mlp_hidden_act mamba_hidden_act activation_type afn act_fn
    hidden_dropout hidden_dropout_prob attention_dropout attention_probs_dropout_prob attn_pdrop embd_pdrop resid_pdrop
    embedding_dropout attention_dropout_prob classifier_dropout summary_type
    rms_norm_eps layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_eps norm_epsilon mixer_rms_eps
    norm_topk_prob moe_renormalize route_norm norm_type norm_after_rope rms_norm_type block_norm_eps norm_reduction_force_float32
    router_aux_loss_coef output_router_logits router_jitter_noise aux_loss_alpha seq_aux router_z_loss_coef input_jitter_noise
    moe_aux_loss_coeff moe_router_activation_func moe_router_topk_scaling_factor moe_router_scaling_factor
    moe_router_enable_shared_expert_scale routed_scaling_factor scoring_func topk_method moe_router_load_balancing_type
    n_group topk_group num_expert_group n_expert_groups num_limited_groups use_grouped_topk score_func route_scale
    moe_router_use_sigmoid moe_layer_recompute moe_random_routing_dropped_token moe_drop_tokens capacity_factor
    rope_theta rope_scaling rope_parameters rope_local_base_freq rope_interleave indexer_rope_interleave rope_type rope_ratio
    rotary_dim rotary_pct rotary_emb_base rotary_embedding_base partial_rotary_factor partial_rotary_factors attn_rotary_emb
    swa_rope_theta compress_rope_theta use_mrope mrope_section max_position_embeddings original_max_position_embeddings
    initial_context_length model_max_length seq_length max_seq_len max_sequence_length context_length long_factor short_factor
    mla_use_nope position_embedding_type rope_max_position_embeddings
    attn_logit_softcapping final_logit_softcapping query_pre_attn_scalar attention_multiplier embedding_multiplier
    logits_scaling residual_multiplier logit_scale attn_temperature_tuning attn_scale floor_scale attention_value_scale
    attention_softmax_in_fp32 scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn qk_norm_type
    scale_attention_softmax_in_fp32 attention_scaling attn_soft_cap gate_logit_softcapping use_parallel_residual
    layernorm_full_attention_alpha layernorm_full_attention_beta layernorm_linear_attention_alpha
    layernorm_linear_attention_beta layernorm_mlp_alpha layernorm_mlp_beta postnorm residual_in_fp32 rescale_prenorm_residual
    lm_head_multiplier embedding_multiplier attention_in_multiplier attention_out_multiplier key_multiplier mlp_multipliers
    ssm_in_multiplier ssm_multipliers ssm_out_multiplier mup_denominator dim_model_base scale_depth scale_emb hidden_size_base
    use_cache cache_implementation is_decoder is_encoder_decoder
    chunk_size_feed_forward num_beams num_beam_groups num_return_sequences no_repeat_ngram_size beam_size
    encoder_no_repeat_ngram_size output_attentions output_hidden_states id2label label2id problem_type
    max_length min_length top_k top_p temperature typical_p do_sample early_stopping length_penalty repetition_penalty
    diversity_penalty decoder_start_token_id forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens
    bad_words_ids finetuning_task task_specific_params prefix tf_legacy_loss use_bfloat16 remove_invalid_values torchscript
    exponential_decay_length_penalty sep_token_id return_dict_in_generate output_scores return_dict tie_encoder_decoder
    ep_size pretraining_tp gradient_checkpointing num_logits_to_keep use_flash_attn _attn_implementation attn_implementation
    _attn_implementation_autoset
    _flash_attn_2_enabled use_flash_attention logits_to_keep ignore_index use_return_dict onnx_safe use_dynamic_ntk use_logn_attn
    time_step_min time_step_max time_step_floor time_step_limit time_step_scale time_step_init_scheme
    mamba_chunk_size use_mamba_kernels use_mem_eff_path max_window_layers linear_allow_neg_eigval gate_lower_bound
    moe_router_dtype router_dtype swiglu_limit swiglu_limits swiglu_limits_shared swiglu_alpha
    altup_active_idx altup_coef_clip altup_correct_scale activation_sparsity_pattern
    rope_attention_scaling no_rope_layers no_rope_layer_interval use_attn_temp layer_norm_fp32 for_llm_compressor
    dual_chunk_attention_config interpolate_factor kv_channels_scaling hc_eps hc_sinkhorn_iters block_configs_version
    activation_situ_beta activation_situ_linear_beta latent_moe_use_norm quantization_config compression_config
    use_kernels attention_chunk_size_hint output_router_logits num_labels _num_labels pooler_type rwkv_rescale_every rescale_every
    mtp_use_dedicated_embeddings mtp_share_layers deepstack_visual_indexes zero_init_residual disable_ngram_loss
    index_share_for_mtp_iteration num_image_tokens
    layer_rope_theta embedding_initializer_range use_moe need_fp32_gate zero_centered yarn_only_types norm_expert_weight
    attention_dropout_rate hidden_dropout_rate layer_dropout moe_every_n_layer ffn_dropout use_kda_kernel
    use_qkv_parallel ffn_hidden_act num_expert_groups moe_capacity moe_gate n_ctx mla_scale_q_lora mla_scale_kv_lora
    moe_router_bias moe_router_activation layer_switch use_embedding_sharing use_parallel_embedding mlp_type rope_position_ids
    context_window_size prefill_chunk_size
    """.split()  # noqa: SIM905  # words are easier to read than a list of strings
)
"""Keys on which memory does not depend, although their names suggest it."""

QUIET = re.compile(
    r"factor|scal|multiplier|coef|prob|alpha|beta|theta|std|dropout|loss|temperature|jitter|softcap|limit|recompute"
)
"""Words that make a name harmless if none of `LOUD` is in it: they describe how numbers are computed, not how many there are."""
LOUD = re.compile(
    r"dim|size|ffn|expan|compress|kv|head|rank|lora|window|interval|shar|layer|cla_|group|cache|state|expert"
)

HARMLESS_ENDINGS = (
    "_token_id",
    "_token_index",
    "_dropout",
    "_eps",
    "_init_std",
    "_initializer_range",
    "_act",
    "_loss_coef",
    "_token_ids",
)

LARGEST = 1 << 30
"""Maximum dimension of a model; a file with a larger one is damaged."""

MOST_LAYERS = 4096


@cache
def class_defaults() -> Mapping[str, Mapping[str, Any]]:
    """
    Return the default values of each model type's class for keys that a config.json lacks, as recorded by
    ``tests/class_defaults.py``.
    """
    text = (Path(__file__).parent / "defaults.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text))


class Keys:
    """One config, or one table within a config, that records which of its keys were read."""

    def __init__(
        self,
        config: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
        prefix: str = "",
        *,
        sparing: bool = False,
    ) -> None:
        """
        Take the config. With *sparing*, the file omits values that equal the class's defaults, as part of another
        config does.
        """
        self._config = config
        self._defaults = defaults or {}
        self._prefix = prefix
        self._sparing = sparing
        self._read: set[str] = set()

    def has(self, key: str) -> bool:
        """Return whether the config file itself has a value for *key*; the key then counts as read."""
        self._read.add(key)
        return self._config.get(key) is not None

    def raw(self, key: str) -> Any:
        """
        Return the value of *key* in the config file. If the file lacks it, return the class's default; None without a
        default.
        """
        self._read.add(key)
        if key in self._config:
            return self._config[key]
        return self._defaults.get(key)

    def refuse(self, key: str, why: str) -> MisreadError:
        """Return the error about the config *key*, for the caller to raise."""
        return MisreadError(f"{self._prefix}{key}", why)

    def count(self, *names: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        """
        Return the whole number of the first config key in *names* that has one. Without any, return *default*, or raise
        an error.
        """
        found = self._first(names)
        if found is not None:
            return self._whole(*found, least, most)
        if default is None:
            raise self.refuse(names[0], "this key is missing, and the size of the model depends on it")
        return default

    def _first(self, names: Sequence[str]) -> tuple[str, Any] | None:
        """
        Return the first config key of *names* in the file, else the first with a default of the class; None without
        either.
        """
        if (found := self._in_file(names)) is not None:
            return found
        for name in names:
            if name not in self._config and name in self._defaults:
                return name, self._defaults[name]
        return None

    def _in_file(self, names: Sequence[str]) -> tuple[str, Any] | None:
        """
        Return the first config key of *names* that the file has; None if it has none. Other keys with the same value
        count as read.
        """
        for name in names:
            if self.has(name):
                self._read.update(other for other in names if self._config.get(other) == self._config[name])
                return name, self._config[name]
        return None

    def stated(self, *names: str, least: int = 1, most: int = LARGEST) -> int:
        """
        Return the whole number of the first config key of *names*, as `count`, but without the class's default unless
        the file omits defaults.
        """
        if self._sparing:
            return self.count(*names, least=least, most=most)
        if (found := self._in_file(names)) is not None:
            return self._whole(*found, least, most)
        raise self.refuse(names[0], "this key is missing, and the size of the model depends on it")

    def maybe(self, *names: str, least: int = 0) -> int | None:
        """Return the whole number of the first config key of *names*, as `count`; None without a number."""
        found = self._first(names)
        return None if found is None else self._whole(*found, least, LARGEST)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return the boolean of a config *key*; 0 and 1 are accepted too."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise self.refuse(key, f"must be true or false; found {shown(value)}")

    def word(self, key: str, default: str | None = None) -> str | None:
        """Return the text of a config *key*, or *default*, which may be None."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.refuse(key, f"must be a string; found {shown(value)}")
        return value

    def sequence(self, key: str) -> Sequence[Any] | None:
        """Return the list of a config *key*; None if the key is missing."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise self.refuse(key, f"must be a list; found {shown(value)}")
        if len(value) > MOST_LAYERS:
            raise self.refuse(key, f"the list has {len(value)} items")
        return value

    def per_layer(self, key: str, layers: int, extra: int = 0) -> Sequence[Any] | None:
        """
        Return the list of a config *key*, one item for each layer, without the items of *extra* draft layers at its
        end; None if missing.
        """
        value = self.sequence(key)
        if value is None or len(value) == layers or (extra and len(value) == layers + extra):
            return value if value is None else value[:layers]
        raise self.refuse(key, f"the list has {len(value)} items for {layers} layers")

    def numbers(self, key: str, layers: int | None = None) -> list[int] | None:
        """Return the list of whole numbers of a config *key*; None if the key is missing."""
        value = self.sequence(key) if layers is None else self.per_layer(key, layers)
        return None if value is None else [self._whole(key, item, 0, LARGEST) for item in value]

    def table(self, key: str) -> "Keys | None":
        """
        Return the nested table of a config *key*, whose keys are recorded in the same way; None if the table is
        missing.
        """
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.refuse(key, f"must be a table; found {shown(value)}")
        return Keys(value, prefix=f"{self._prefix}{key}.")

    def unread(self) -> str | None:
        """Return a config key that was not read and on which memory may depend; None if every key was read."""
        for key, value in self._config.items():
            if key in self._read or not self._matters(key, value):
                continue
            return f"{self._prefix}{key}"
        return None

    def _matters(self, key: object, value: object) -> bool:
        if not isinstance(key, str) or key in HARMLESS or key.endswith(HARMLESS_ENDINGS) or not SMELL.search(key):
            return False
        if QUIET.search(key) and not LOUD.search(key):
            return False
        if isinstance(value, list | tuple | Mapping | str) and not value:
            return False
        nothing = value is None or value is False or (isinstance(value, int | float) and value == 0)
        return not nothing and (key not in self._defaults or value != self._defaults[key])

    def _whole(self, key: str, value: object, least: int, most: int) -> int:
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, f"must be a whole number; found {shown(value)}")
        if not least <= value <= most:
            raise self.refuse(key, f"must be from {least} to {most}; found {shown(value)}")
        return value


def shown(value: object) -> str:
    """Return a value of a config.json key, shortened for a message."""
    if isinstance(value, int) and abs(value) > 1 << 64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
