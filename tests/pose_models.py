"""Small ONNX files with the inputs and outputs of DWPose's two networks, which react to the picture.

The detector finds red: a person is where a patch of 32 × 32 pixels of its input is red and nothing else. The estimator
puts the same standing figure into every box.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BOX = 160, 288  # pixels of the detector's input
SURE = 0.9


def figure() -> np.ndarray:
    """(133, 2) key points of a person standing in a box, in 0..1 of the estimator's input, in COCO's order."""
    body = [
        (0.5, 0.2),
        (0.52, 0.18),
        (0.48, 0.18),
        (0.55, 0.2),
        (0.45, 0.2),
        (0.6, 0.3),
        (0.4, 0.3),
        (0.65, 0.42),
        (0.35, 0.42),
        (0.66, 0.55),
        (0.34, 0.55),
        (0.56, 0.55),
        (0.44, 0.55),
        (0.56, 0.7),
        (0.44, 0.7),
        (0.56, 0.86),
        (0.44, 0.86),
    ]
    feet = [(0.6, 0.89), (0.58, 0.89), (0.55, 0.88), (0.4, 0.89), (0.42, 0.89), (0.45, 0.88)]
    turns = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    face = np.stack([0.5 + 0.06 * np.cos(turns), 0.19 + 0.05 * np.sin(turns)], axis=1)
    hands = [(x + 0.01 * (k % 5), 0.56 + 0.01 * (k // 5)) for x in (0.66, 0.3) for k in range(21)]
    return np.concatenate([body, feet, face, hands])


def write_models(folder: Path, batch: int | str = 1) -> tuple[Path, Path]:
    """Write yolox_l.onnx and dw-ll_ucoco_384.onnx, the latter for this batch size, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "yolox_l.onnx", folder / "dw-ll_ucoco_384.onnx"
    onnx.save(_detector(), paths[0])
    onnx.save(_estimator(batch), paths[1])
    return paths


def _detector() -> onnx.ModelProto:
    fine = np.zeros((1, 6400 + 1600, 85), np.float32)  # cells of strides 8 and 16: nobody
    geometry = np.zeros((1, 400, 4), np.float32)
    geometry[..., :2] = 0.5
    geometry[..., 2:] = np.log(np.array(BOX) / 32)
    classes = np.zeros((1, 400, 80), np.float32)
    classes[..., 0] = 1
    constants = {
        "redness": np.array([1, -1, -1], np.float32).reshape(1, 3, 1, 1) / 255,
        "shape": np.array([1, 400, 1]),
        "fine": fine,
        "geometry": geometry,
        "classes": classes,
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Mul", ["pooled", "redness"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["red"]),
        helper.make_node("Reshape", ["red", "shape"], ["objectness"]),
        helper.make_node("Concat", ["geometry", "objectness", "classes"], ["coarse"], axis=2),
        helper.make_node("Concat", ["fine", "coarse"], ["output"], axis=1),
    ]
    return _model(nodes, constants, {"images": (1, 3, 640, 640)}, {"output": (1, 8400, 85)})


def _estimator(batch: int | str) -> onnx.ModelProto:
    places = figure()
    peaks = [
        SURE * np.exp(-(((np.arange(bins)[None] - place[:, None] * bins) / 4) ** 2)).astype(np.float32)[None]
        for place, bins in zip(places.T, (576, 768), strict=True)
    ]
    constants = {
        "peak_x": peaks[0],
        "peak_y": peaks[1],
        "little": np.float32(1e-4),
        "axes": np.array([1, 2, 3]),
        "shape": np.array([-1, 1, 1]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"]),
        helper.make_node("Mul", ["mean", "little"], ["small"]),
        helper.make_node("Reshape", ["small", "shape"], ["shift"]),
        helper.make_node("Add", ["peak_x", "shift"], ["simcc_x"]),
        helper.make_node("Add", ["peak_y", "shift"], ["simcc_y"]),
    ]
    outputs = {"simcc_x": (batch, 133, 576), "simcc_y": (batch, 133, 768)}
    return _model(nodes, constants, {"input": (batch, 3, 384, 288)}, outputs)


def _model(nodes, constants, inputs, outputs) -> onnx.ModelProto:
    tensors = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "stand-in", *tensors, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model
