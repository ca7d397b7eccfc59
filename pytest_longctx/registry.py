"""What ships with the package, by name: a run imports only what it uses."""

from typing import Final, NamedTuple


class Make(NamedTuple):
    """A make of accelerators: the kinds of hardware that begin like this, and who looks at them."""

    begins: str
    source: str
    needs: str


MAKES: Final = (
    Make("MI", "pytest_longctx.devices.amd:AmdSmi", "amd-smi or rocm-smi on the path"),
    Make("trn", "pytest_longctx.devices.neuron:NeuronMonitor", "neuron-monitor on the path"),
    Make("", "pytest_longctx.devices.nvidia:Nvml", "pip install 'pytest-longctx[nvidia]'"),
)
"""By name, so that a run imports only the one it uses; every kind that no other row begins is NVIDIA's."""
