"""Finding faces in a picture: insightface's detector, and where it finds none, DWPose's face points."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from animation.errors import InputError
from animation.face.boxes import bounds_of_points
from animation.flags import NOTHING, Settings, flag
from animation.networks import ANEW, Networks
from DWPose.keypoints import FACE
from DWPose.wholebody import MODEL_FILES, Wholebody

DETECTION_SIZE = (640, 640)
RECOGNISER = "glintr100.onnx"
FACE_MODEL_FILES = ("scrfd_10g_bnkps.onnx", RECOGNISER)
DETECTOR, POSE = "the face detector", "DWPose's face points"  # the two ways, in words


@dataclass(kw_only=True)
class FaceModels(Settings):
    """Where the networks are that find and embed faces; None is filled in by `animation.weights.layout.fill_in`."""

    TITLE: ClassVar = "weights (left out: the released ones where they are, else the small ones that come along)"

    face_models: str | None = flag(None, "insightface's antelopev2", metavar="DIR", affects=NOTHING)
    dwpose_models: str | None = flag(
        None, "DWPose's networks, which find the faces that insightface's do not", metavar="DIR", affects=NOTHING
    )


@dataclass(eq=False)
class Face:
    """One face of a picture, in its pixels.

    Attributes:
        box: (4,) x_min, y_min, x_max, y_max.
        points: (5, 2), x and y of the eyes, the nose's tip and the corners of the mouth, left in the picture first.
    """

    box: np.ndarray
    points: np.ndarray

    @property
    def area(self) -> float:
        """Of the box."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


def find_face_models(folder: str | Path, names: tuple[str, ...] = FACE_MODEL_FILES) -> Path:
    """The folder that holds antelopev2's ONNX files: `folder`, or the folder of the same name nested in it.

    Raises:
        InputError: neither holds them; says what to download.
    """
    folder = Path(folder)
    for candidate in (folder, folder / folder.name, folder / "antelopev2"):
        if all((candidate / name).is_file() for name in names):
            return candidate
    raise InputError(
        f"{folder}: the face models {' and '.join(names)} are not there; download the folder antelopev2 of "
        "FrancisRing/StableAnimator (Hugging Face hub) to it"
    )


def five_points(points: np.ndarray) -> np.ndarray:
    """(68, 2) points in iBUG's order → (5, 2): centres of the eyes, the nose's tip, the corners of the mouth."""
    eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    return np.array([*eyes, points[30], points[48], points[54]])


class FaceFinder:
    """Finds the faces of pictures.

    Args:
        models_folder: antelopev2's.
        dwpose_folder: yolox_l.onnx and dw-ll_ucoco_384.onnx for the second way, opened when it is first needed; None,
            or a folder without them, to go without it.
        device: `cuda` runs the networks there where onnxruntime can; `cpu`.
        networks: opens those of the second way.
        threads: of the CPU that each of insightface's networks takes; None: all.

    Raises:
        InputError: insightface's models are missing or damaged.
    """

    def __init__(
        self,
        models_folder: str | Path,
        dwpose_folder: str | Path | None = None,
        device: str = "cpu",
        networks: Networks = ANEW,
        threads: int | None = None,
    ):
        import onnxruntime
        from insightface.app import FaceAnalysis

        folder = find_face_models(models_folder)
        self.device = "cuda" if device.startswith("cuda") else "cpu"
        wanted = (["CUDAExecutionProvider"] if self.device == "cuda" else []) + ["CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self.analysis = FaceAnalysis(
                str(folder), allowed_modules=["detection", "recognition"], providers=providers, sess_options=options
            )
        except Exception as error:  # onnxruntime and protobuf raise types of their own
            raise InputError(f"{folder}: the face models cannot be loaded ({error}); download them again") from None
        self.analysis.prepare(ctx_id=0, det_size=DETECTION_SIZE)
        paths = [] if dwpose_folder is None else [Path(dwpose_folder) / name for name in MODEL_FILES]
        self.dwpose_paths = paths if all(path.is_file() for path in paths) else []
        self.networks = networks
        self._wholebody: Wholebody | None = None

    def __call__(self, image_rgb: np.ndarray, channel_order: str = "bgr") -> tuple[list[Face], str | None]:
        """The faces of a picture, from left to right, and which way found them (`DETECTOR`, `POSE`, None: none did).

        Args:
            image_rgb: (H, W, 3) uint8.
            channel_order: what the detector is handed: `bgr`, as it was trained, or `rgb`, as the released checkpoints'
                training code did.

        Raises:
            InputError: DWPose's networks are damaged.
        """
        faces, way = self._detect(_ordered(image_rgb, channel_order)), DETECTOR
        if not faces and self.dwpose_paths:
            faces, way = self._estimate(image_rgb), POSE
        return sorted(faces, key=lambda face: face.box[0] + face.box[2]), way if faces else None

    def embed(self, image_rgb: np.ndarray, face: Face, channel_order: str) -> np.ndarray:
        """The raw ArcFace embedding, (512,) float32, of a face cut out and aligned by its five points."""
        from insightface.app.common import Face as InsightFace

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # insightface's use of scikit-image
            found = InsightFace(kps=face.points.astype(np.float32))
            embedding = self.analysis.models["recognition"].get(_ordered(image_rgb, channel_order), found)
        return embedding.astype(np.float32)

    def _detect(self, pixels: np.ndarray) -> list[Face]:
        boxes, points = self.analysis.det_model.detect(pixels, max_num=0, metric="default")
        return [Face(box[:4], five) for box, five in zip(boxes, points, strict=True)] if len(boxes) else []

    def _estimate(self, image_rgb: np.ndarray) -> list[Face]:
        """By DWPose, of the people whom its detector finds: its estimator sees somebody in an empty picture too."""
        if self._wholebody is None:
            self._wholebody = self.networks.open(Wholebody, *self.dwpose_paths, self.device)
        people = self._wholebody(image_rgb)
        if not people.detected:
            return []
        found = zip(people.keypoints[:, FACE], people.scores[:, FACE], strict=True)
        faces = [(bounds_of_points(points, scores), points) for points, scores in found]
        return [Face(box, five_points(points)) for box, points in faces if box is not None]


def _ordered(image_rgb: np.ndarray, channel_order: str) -> np.ndarray:
    return np.ascontiguousarray(image_rgb[..., :: 1 if channel_order == "rgb" else -1])
