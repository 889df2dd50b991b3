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
RESHAPING = ("Identity", "Unsqueeze", "Reshape", "Cast")  # of a constant
CONV_DEFAULTS = {"strides": [1, 1], "pads": [0] * 4, "group": 1, "dilations": [1, 1]}


class _OtherNetworkError(Exception):
    """The graph is not an iResNet's."""


class _Walk:
    """Follows a graph along its data, from a tensor to the node that takes it; `state` gathers the named tensors."""

    def __init__(self, graph):
        from onnx import numpy_helper

        self.state: dict[str, np.ndarray] = {}
        self.to_array = numpy_helper.to_array
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.takers = defaultdict(list)
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = _attributes(node).get("value")
            for name in node.input:
                self.takers[name].append(node)
        self.outputs = {output.name for output in graph.output}
        inputs = [value.name for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            raise _OtherNetworkError(f"it has {len(inputs)} inputs")
        self.here = inputs[0]

    def array(self, name: str) -> np.ndarray:
        """A constant tensor as float32, through the nodes that only rename or reshape it."""
        while self.constants.get(name) is None:
            maker = self.makers.get(name)
            if maker is None or maker.op_type not in RESHAPING:
                raise _OtherNetworkError(f"{name} is no constant")
            name = maker.input[0]
        return self.to_array(self.constants[name]).astype(np.float32)

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

    def norm(self, name: str, folded_bias: np.ndarray | None = None) -> None:
        """Take a BatchNormalization; after a layer of this bias, it may be folded into that layer."""
        if folded_bias is None or self.sees("BatchNormalization"):
            node = self.take("BatchNormalization")
            weight, bias, mean, variance = (self.array(given).reshape(-1) for given in node.input[1:5])
            variance = variance + np.float32(_attributes(node).get("epsilon", 1e-5) - TORCH_EPSILON)
            if folded_bias is not None:
                mean = mean - folded_bias
        else:
            bias, mean, variance = folded_bias, np.zeros_like(folded_bias), np.ones_like(folded_bias)
            weight = variance * np.sqrt(np.float32(1 + TORCH_EPSILON))
        tensors = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
        tensors["num_batches_tracked"] = np.zeros((), np.int64)
        self.state |= {f"{name}.{key}": value for key, value in tensors.items()}

    def conv_norm(self, conv: str, norm: str, stride: int = 1) -> None:
        node = self.take("Conv")
        weight = self.state[f"{conv}.weight"] = self.array(node.input[1])
        found = {key: _attributes(node).get(key, default) for key, default in CONV_DEFAULTS.items()}
        padding = weight.shape[-1] // 2
        if weight.ndim != 4 or found != CONV_DEFAULTS | {"strides": [stride] * 2, "pads": [padding] * 4}:
            raise _OtherNetworkError(f"a convolution of shape {weight.shape} with {found}")
        has_bias = len(node.input) > 2 and node.input[2]
        self.norm(norm, self.array(node.input[2]) if has_bias else np.zeros(weight.shape[0], np.float32))

    def prelu(self, name: str) -> None:
        self.state[f"{name}.weight"] = self.array(self.take("PRelu").input[1]).reshape(-1)

    def block(self, name: str, first: bool) -> None:
        """Take a residual block; the first of a stage halves the resolution and projects its shortcut."""
        start, stride = self.here, 2 if first else 1
        if first:
            self.conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", stride)
        shortcut, self.here = self.here, start
        self.norm(f"{name}.bn1")
        self.conv_norm(f"{name}.conv1", f"{name}.bn2")
        self.prelu(f"{name}.prelu")
        self.conv_norm(f"{name}.conv2", f"{name}.bn3", stride)
        if shortcut not in self.take("Add").input:
            raise _OtherNetworkError("a block without its shortcut")


def _attributes(node) -> dict:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _read_iresnet(graph) -> dict[str, np.ndarray]:
    walk, stage, depth = _Walk(graph), 0, 0
    walk.conv_norm("conv1", "bn1")
    walk.prelu("prelu")
    while len(walk.next_nodes()) == 2:  # a block's shortcut leaves here
        first = walk.sees("BatchNormalization", "Conv")
        stage, depth = (stage + 1, 0) if first else (stage, depth + 1)
        walk.block(f"layer{stage}.{depth}", first)
    if stage != 4:
        raise _OtherNetworkError(f"it has {stage} stages of residual blocks, not 4")
    walk.norm("bn2")
    walk.take("Flatten" if walk.sees("Flatten") else "Reshape")
    linear = walk.take("Gemm")
    attributes = _attributes(linear)
    if attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1 or attributes.get("transA", 0):
        raise _OtherNetworkError("its last layer scales or transposes")
    weight, bias = walk.array(linear.input[1]), walk.array(linear.input[2]).reshape(-1)
    walk.state |= {"fc.weight": weight if attributes.get("transB", 0) else weight.T, "fc.bias": bias}
    walk.norm("features", np.zeros_like(bias))
    if walk.next_nodes() or walk.here not in walk.outputs:
        raise _OtherNetworkError("it goes on after the embedding")
    return walk.state


def read_arcface_onnx(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of an iResNet recogniser of any size, by the names of `glintr100_torch.pth`, for torch's ArcFace.

    Raises CheckpointError: the file is missing, damaged, or another network's.
    """
    import onnx

    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; correct the path")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf and onnx raise types of their own
        raise CheckpointError(f"{path}: truncated or not an ONNX file ({error}); download it again") from None
    try:
        return _read_iresnet(model.graph)
    except (_OtherNetworkError, KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not the graph of an ArcFace iResNet ({error}); use antelopev2's glintr100.onnx"
        ) from None
