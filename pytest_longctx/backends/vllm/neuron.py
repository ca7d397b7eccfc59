"""vLLM on AWS Trainium and Inferentia, by the vllm-neuron plugin."""

from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import Shape


class VllmNeuron(Vllm):
    """The plugin compiles a graph for every bucket of lengths before it serves, so a first boot takes many minutes."""

    name = "vllm-neuron"
    # vLLM first: findings name its version, which is also what its server reports; the plugin counts its own.
    distributions = ("vllm", "vllm-neuron")
    salted = False  # its engine is another, and no source says that its cache heeds one

    def predict(self, deployment: Deployment, shape: Shape, device_bytes: float | None) -> Prediction | None:
        return None
