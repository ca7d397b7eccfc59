"""Faults in the states of recurrent layers."""

from typing import Any

from . import armed, wrap


def install() -> None:
    """Wrap the metadata and the convolution of Mamba2 with faults in recurrent states."""
    from vllm.model_executor.layers.mamba import mamba_mixer2
    from vllm.v1.attention.backends.mamba2_attn import Mamba2AttentionMetadataBuilder

    wrap(Mamba2AttentionMetadataBuilder, "build", _building)
    wrap(mamba_mixer2, "causal_conv1d_fn", _convolving)


def _building(true: Any) -> Any:
    def build(self: Any, *rest: Any, **named: Any) -> Any:
        made, fault = true(self, *rest, **named), armed()
        begins = made.has_initial_states_p
        if begins is not None and fault == "state-not-reset":
            begins[:] = True
            made.prep_initial_states = True
        if begins is not None and fault == "state-not-restored":
            begins[:] = False
            made.prep_initial_states = False
        states = made.state_indices_tensor_d
        if states is not None and states.shape[0] > 1 and fault == "states-swapped":
            swapped = states.clone()
            swapped[[0, 1]] = states[[1, 0]]
            made.state_indices_tensor_d = swapped
        return made

    return build


def _convolving(true: Any) -> Any:
    def causal_conv1d_fn(*tensors: Any, **named: Any) -> Any:
        begins = named.get("has_initial_state")
        if begins is not None and armed() == "convolution-not-restored":
            named["has_initial_state"] = begins & ~begins
        return true(*tensors, **named)

    return causal_conv1d_fn
