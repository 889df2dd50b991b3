"""ArcFace out of an ONNX graph: the same function as onnxruntime runs, however it was exported."""

import json
import warnings

import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from animation.errors import CheckpointError
from animation.modules.arcface import FACE_SIZE, ArcFace
from animation.weights.loading import load_arcface
from animation.weights.onnx import read_arcface_onnx
from tests.conftest import relative_error
from tests.face_models import write_recogniser
from tests.test_modules import KEYS, weight

SMALL = {"widths": (8, 8, 16, 16, 32), "depths": (1, 3, 2, 1), "embedding_dim": 24}


@pytest.fixture(scope="module")
def arcface():
    model = ArcFace(**SMALL)
    model.load_state_dict({name: weight(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()})
    return model.eval()


def export(model, path, folded=True):
    options = {} if folded else {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's talk of its successor
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, FACE_SIZE, FACE_SIZE),),
            path,
            dynamo=False,
            input_names=["input"],
            output_names=["embedding"],
            dynamic_axes={"input": {0: "N"}, "embedding": {0: "N"}},
            **options,
        )
    return path


def anonymise(path):
    """Rename every tensor, turn some initialisers into Constant nodes and store the last matrix transposed."""
    model = onnx.load(path)
    graph = model.graph
    kept = {"input", "embedding"}
    names = {}
    for node in graph.node:
        for names_of in (node.input, node.output):
            for i, name in enumerate(names_of):
                if name and name not in kept:
                    names_of[i] = names.setdefault(name, str(1000 + len(names)))
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, str(1000 + len(names)))
    gemm = next(node for node in graph.node if node.op_type == "Gemm")
    for tensor in graph.initializer:
        if tensor.name == gemm.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).T.copy(), tensor.name))
    for attribute in gemm.attribute:
        if attribute.name == "transB":
            attribute.i = 0
    moved = list(graph.initializer)[::3]
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in moved]
    nodes = [*constants, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in moved:
        graph.initializer.remove(tensor)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def widen_epsilon(path):
    """Another epsilon in every normalisation, which torch's own does not have."""
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 2e-3
    onnx.save(model, path)
    return path


def faces():
    return torch.rand(3, 3, FACE_SIZE, FACE_SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("change", [lambda path: path, anonymise, widen_epsilon])
@torch.no_grad()
def test_the_same_function_as_onnxruntime(arcface, tmp_path, folded, change):
    path = change(export(arcface, tmp_path / "glintr100.onnx", folded))
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("BatchNormalization") == (9 if folded else 28)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"input": faces().numpy()})[0])
    loaded = load_arcface(path)
    assert (loaded.config.widths, loaded.config.depths) == ([*SMALL["widths"]], [*SMALL["depths"]])
    assert relative_error(loaded(faces()), expected) < 1e-4
    if change is not widen_epsilon:
        assert relative_error(arcface(faces()), expected) < 1e-4  # ArcFace itself, as it was before the export
    assert relative_error(loaded(-faces()), expected) > 1e-2  # a control that must fail


@torch.no_grad()
def test_gradients_flow_to_the_picture(arcface, tmp_path):
    loaded = load_arcface(export(arcface, tmp_path / "glintr100.onnx"))
    gradients = []
    for model in (arcface, loaded):
        pixels = faces().requires_grad_()
        with torch.enable_grad():
            model(pixels).square().sum().backward()
        gradients.append(pixels.grad)
    assert relative_error(gradients[1], gradients[0]) < 1e-4


def test_the_names_are_the_released_ones(arcface, tmp_path):
    state = read_arcface_onnx(export(arcface, tmp_path / "glintr100.onnx"))
    shapes = {name: list(array.shape) for name, array in state.items()}
    assert shapes == {name: list(tensor.shape) for name, tensor in arcface.state_dict().items()}
    assert set(shapes) < set(json.loads((KEYS / "glintr100_torch.pth.json").read_text()))


def test_other_graphs_and_damaged_files_are_refused(arcface, tmp_path):
    path = tmp_path / "glintr100.onnx"
    with pytest.raises(CheckpointError, match="no such file"):
        load_arcface(path)
    write_recogniser(path)
    with pytest.raises(CheckpointError, match=r"not the graph of an ArcFace iResNet \(Conv expected, .* found\)"):
        load_arcface(path)
    export(arcface, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated or not an ONNX file"):
        load_arcface(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="git-lfs pointer"):
        load_arcface(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("Conv", "strides", [3, 3]), "a convolution of shape"),
        (("Gemm", "alpha", 2.0), "its last layer scales"),
        (("Conv", "group", 2), "a convolution of shape"),
    ],
)
def test_a_graph_that_computes_something_else_is_refused(arcface, tmp_path, change, reason):
    path = export(arcface, tmp_path / "glintr100.onnx")
    kind, name, value = change
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == kind)
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=reason):
        read_arcface_onnx(path)
