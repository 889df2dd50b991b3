"""ArcFace's tensors under their released names, read from an ONNX graph such as insightface's `glintr100.onnx`.

Exporters fold batch normalisations into convolutions and give tensors names of their own, so the graph is followed
from its input, node by node, and every tensor is known by its place. A folded normalisation becomes one that only adds
the convolution's bias: the network that comes out is the same function. Nothing of the graph is run.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from animation.errors import CheckpointError

TORCH_EPSILON = 1e-5  # of every BatchNorm in ArcFace
PASSED_OVER = ("Identity", "Dropout", "Cast")


class _OtherNetworkError(Exception):
    """The graph is not an iResNet's."""


class _Walk:
    """Follows a graph along its data, from a tensor to the node that takes it."""

    def __init__(self, graph):
        from onnx import numpy_helper

        self.to_array = numpy_helper.to_array
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.takers = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.takers[name].append(node)
        self.outputs = {output.name for output in graph.output}
        inputs = [value.name for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            raise _OtherNetworkError(f"it has {len(inputs)} inputs")
        self.here = inputs[0]

    def array(self, name: str) -> np.ndarray:
        """A constant tensor as float32, through the nodes that only rename or reshape it."""
        if name in self.constants:
            return self.to_array(self.constants[name]).astype(np.float32)
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            return self.to_array(_attributes(maker)["value"]).astype(np.float32)
        if maker is not None and maker.op_type in ("Identity", "Unsqueeze", "Reshape", "Cast"):
            return self.array(maker.input[0])
        raise _OtherNetworkError(f"{name} is no constant")

    def next_nodes(self) -> list:
        """The nodes that take the tensor at hand, after those that pass it on unchanged."""
        while True:
            nodes = self.takers[self.here]
            if len(nodes) != 1 or nodes[0].op_type not in PASSED_OVER:
                return nodes
            self.here = nodes[0].output[0]

    def sees(self, *kinds: str) -> bool:
        """Whether the nodes that take the tensor at hand are of these kinds."""
        return sorted(node.op_type for node in self.next_nodes()) == sorted(kinds)

    def take(self, kind: str):
        """Go past the node of a kind that takes the tensor at hand, and return it."""
        nodes = [node for node in self.next_nodes() if node.op_type == kind]
        if len(nodes) != 1:
            found = ", ".join(node.op_type for node in self.next_nodes()) or "the end"
            raise _OtherNetworkError(f"{kind} expected, {found} found")
        self.here = nodes[0].output[0]
        return nodes[0]

    def norm(self) -> dict[str, np.ndarray]:
        """Take a BatchNormalization."""
        node = self.take("BatchNormalization")
        weight, bias, mean, variance = (self.array(name).reshape(-1) for name in node.input[1:5])
        epsilon = _attributes(node).get("epsilon", 1e-5)
        return _norm(weight, bias, mean, variance + np.float32(epsilon - TORCH_EPSILON))

    def conv_norm(self, stride: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Take a convolution and the normalisation after it, which may be folded into it."""
        node = self.take("Conv")
        weight = self.array(node.input[1])
        attributes = _attributes(node)
        padding = weight.shape[-1] // 2
        shape = (
            tuple(attributes.get("strides", (1, 1))),
            tuple(attributes.get("pads", (0,) * 4)),
            attributes.get("group", 1),
            tuple(attributes.get("dilations", (1, 1))),
        )
        if weight.ndim != 4 or shape != ((stride, stride), (padding,) * 4, 1, (1, 1)):
            raise _OtherNetworkError(f"a convolution of shape {weight.shape} with strides, pads, groups {shape[:3]}")
        channels = weight.shape[0]
        bias = self.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(channels, np.float32)
        if self.sees("BatchNormalization"):
            norm = self.norm()
            norm["running_mean"] = norm["running_mean"] - bias
            return weight, norm
        one = np.ones(channels, np.float32)
        return weight, _norm(one * np.sqrt(np.float32(1 + TORCH_EPSILON)), bias, 0 * one, one)

    def prelu(self) -> np.ndarray:
        """Take a PRelu."""
        return self.array(self.take("PRelu").input[1]).reshape(-1)


def _attributes(node) -> dict:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _norm(weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "weight": weight,
        "bias": bias,
        "running_mean": mean,
        "running_var": variance,
        "num_batches_tracked": np.zeros((), np.int64),
    }


def _named(name: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}.{key}": value for key, value in tensors.items()}


def _read_block(walk: _Walk, name: str, first: bool) -> dict[str, np.ndarray]:
    """A residual block; the first of a stage halves the resolution and projects its shortcut."""
    start, state = walk.here, {}
    if first:
        state[f"{name}.downsample.0.weight"], norm = walk.conv_norm(stride=2)
        state |= _named(f"{name}.downsample.1", norm)
    shortcut = walk.here
    walk.here = start
    state |= _named(f"{name}.bn1", walk.norm())
    state[f"{name}.conv1.weight"], norm = walk.conv_norm(stride=1)
    state |= _named(f"{name}.bn2", norm)
    state[f"{name}.prelu.weight"] = walk.prelu()
    state[f"{name}.conv2.weight"], norm = walk.conv_norm(stride=2 if first else 1)
    state |= _named(f"{name}.bn3", norm)
    added = walk.take("Add")
    if shortcut not in added.input:
        raise _OtherNetworkError("a block without its shortcut")
    return state


def _read_iresnet(walk: _Walk) -> dict[str, np.ndarray]:
    state = {}
    state["conv1.weight"], norm = walk.conv_norm(stride=1)
    state |= _named("bn1", norm)
    state["prelu.weight"] = walk.prelu()
    stage, depth = 0, 0
    while len(walk.next_nodes()) == 2:  # a block's shortcut leaves here
        first = walk.sees("BatchNormalization", "Conv")
        stage, depth = (stage + 1, 0) if first else (stage, depth + 1)
        state |= _read_block(walk, f"layer{stage}.{depth}", first)
    if stage != 4:
        raise _OtherNetworkError(f"it has {stage} stages of residual blocks, not 4")
    state |= _named("bn2", walk.norm())
    walk.take("Flatten" if walk.sees("Flatten") else "Reshape")
    linear = walk.take("Gemm")
    attributes = _attributes(linear)
    if attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1 or attributes.get("transA", 0):
        raise _OtherNetworkError("its last layer scales or transposes")
    weight = walk.array(linear.input[1])
    state["fc.weight"] = weight if attributes.get("transB", 0) else weight.T
    state["fc.bias"] = walk.array(linear.input[2]).reshape(-1)
    if walk.sees("BatchNormalization"):
        state |= _named("features", walk.norm())
    else:
        one = np.ones(len(state["fc.bias"]), np.float32)
        state |= _named("features", _norm(one * np.sqrt(np.float32(1 + TORCH_EPSILON)), 0 * one, 0 * one, one))
    if walk.next_nodes() or walk.here not in walk.outputs:
        raise _OtherNetworkError("it goes on after the embedding")
    return state


def read_arcface_onnx(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of an iResNet recogniser, of any size.

    Returns:
        Arrays by the names of `glintr100_torch.pth`, of which torch's ArcFace makes the function of the graph.

    Raises:
        CheckpointError: the file is missing, damaged, or another network's.
    """
    import onnx

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; correct the path")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf and onnx raise types of their own
        raise CheckpointError(f"{path}: truncated or not an ONNX file ({error}); download it again") from None
    try:
        return _read_iresnet(_Walk(model.graph))
    except (_OtherNetworkError, KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not the graph of an ArcFace iResNet ({error}); use antelopev2's glintr100.onnx"
        ) from None
