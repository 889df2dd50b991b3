"""Stand-ins for antelopev2's files: the same inputs and outputs, a few operations inside."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES, ANCHORS, INPUT = (8, 16, 32), 2, 640


def write_detector(path: Path, centres: list[tuple[int, int, int]]) -> None:
    """A detector that finds a face at each (x, y, radius), in pixels of its 640×640 input, whatever the picture."""
    outputs, nodes, constants = [], [], []
    nodes += [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("ReduceSum", ["pooled"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "nought"], ["zero"]),
    ]
    constants.append(numpy_helper.from_array(np.float32(0), "nought"))
    for kind, width in (("score", 1), ("box", 4), ("keypoint", 10)):
        for stride in STRIDES:
            cells = INPUT // stride
            values = np.zeros((cells * cells * ANCHORS, width), np.float32)
            for x, y, radius in centres if stride == 32 else []:
                row = ANCHORS * ((y // stride) * cells + x // stride)
                if kind == "score":
                    values[row] = 0.9
                elif kind == "box":
                    values[row] = radius / stride
                else:
                    points = [(-0.4, -0.4), (0.4, -0.4), (0, 0), (-0.3, 0.5), (0.3, 0.5)]
                    values[row] = np.array(points, np.float32).ravel() * radius / stride
            name = f"{kind}_{stride}"
            constants.append(numpy_helper.from_array(values, f"{name}_values"))
            nodes.append(helper.make_node("Add", [f"{name}_values", "zero"], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape))
    pixels = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, INPUT, INPUT])
    _save(path, nodes, [pixels], outputs, constants)


def write_recogniser(path: Path) -> None:
    """An embedding that is the mean of each colour channel (as handed over), 512 numbers by a fixed matrix."""
    matrix = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    pixels = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 112, 112])
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 512])
    _save(path, nodes, [pixels], [output], [numpy_helper.from_array(matrix, "matrix")])


def _save(path: Path, nodes, inputs, outputs, constants) -> None:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def write_face_models(folder: Path, centres=((320, 320, 120),)) -> Path:
    """A folder with both files, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_detector(folder / "scrfd_10g_bnkps.onnx", list(centres))
    write_recogniser(folder / "glintr100.onnx")
    return folder
