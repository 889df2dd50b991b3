"""The face embedding of a photo, by insightface's antelopev2 (ArcFace)."""

import logging
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from animation.errors import InputError

logger = logging.getLogger(__name__)

EMBEDDING_DIM = 512
DETECTION_SIZE = (640, 640)
FACE_MODEL_FILES = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")


def load_face_embedding(path: str | Path) -> np.ndarray:
    """Read a stored embedding, a .npy file of 512 finite numbers of shape (512,) or (1, 512), as (512,) float32.

    Raises:
        InputError: no such file, not an array, or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such face embedding; give a .npy file of {EMBEDDING_DIM} numbers")
    try:
        embedding = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a .npy array of numbers ({error}); save it with numpy.save") from None
    if not isinstance(embedding, np.ndarray) or embedding.shape not in ((EMBEDDING_DIM,), (1, EMBEDDING_DIM)):
        shape = getattr(embedding, "shape", type(embedding).__name__)
        raise InputError(f"{path}: an embedding of shape {shape}; it must be ({EMBEDDING_DIM},)")
    if embedding.dtype.kind not in "fiu" or not np.isfinite(embedding).all():
        raise InputError(
            f"{path}: an embedding of {embedding.dtype} with values that are not finite numbers; make it again"
        )
    return embedding.reshape(EMBEDDING_DIM).astype(np.float32)


def find_face_models(folder: str | Path) -> Path:
    """The folder that holds antelopev2's ONNX files: `folder`, or the folder of the same name nested in it.

    Raises:
        InputError: neither holds them; says what to download.
    """
    folder = Path(folder)
    for candidate in (folder, folder / folder.name, folder / "antelopev2"):
        if all((candidate / name).is_file() for name in FACE_MODEL_FILES):
            return candidate
    raise InputError(
        f"{folder}: the face models {' and '.join(FACE_MODEL_FILES)} are not there; download the folder antelopev2 of "
        "FrancisRing/StableAnimator (Hugging Face hub) to it, or give a stored vector with --face_embedding"
    )


def load_face_analysis(models_folder: str | Path, device: str = "cpu", threads: int | None = None):
    """insightface's detector and recogniser.

    Args:
        models_folder: antelopev2's folder.
        device: `cuda` runs the networks there where onnxruntime can.
        threads: of the CPU that each network takes; None: all.

    Returns:
        `insightface.app.FaceAnalysis`, ready to be called.

    Raises:
        InputError: the models are missing or damaged.
    """
    import onnxruntime
    from insightface.app import FaceAnalysis

    folder = find_face_models(models_folder)
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()] + ["CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        analysis = FaceAnalysis(
            str(folder), allowed_modules=["detection", "recognition"], providers=providers, sess_options=options
        )
    except Exception as error:  # onnxruntime and protobuf raise types of their own
        raise InputError(f"{folder}: the face models cannot be loaded ({error}); download them again") from None
    analysis.prepare(ctx_id=0, det_size=DETECTION_SIZE)
    return analysis


def find_faces(analysis, pixels: np.ndarray) -> list:
    """insightface's faces with boxes, landmarks and embeddings, the largest first.

    Args:
        analysis: of `load_face_analysis`.
        pixels: (H, W, 3) uint8, in the order of channels that the networks are to see; BGR is insightface's own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # insightface's use of scikit-image
        faces = analysis.get(np.ascontiguousarray(pixels))
    return sorted(faces, key=lambda face: (face.bbox[0] - face.bbox[2]) * (face.bbox[3] - face.bbox[1]))


def embed_largest_face(analysis, image: Image.Image, channel_order: str) -> tuple[np.ndarray, int]:
    """Embed the largest face of a picture with networks that are loaded.

    Args:
        analysis: of `load_face_analysis`.
        image: RGB.
        channel_order: the order of channels handed to insightface, `rgb` (released weights) or `bgr`.

    Returns:
        (512,) float32, raw (not normalised), zeros where no face is found; and the number of faces found.
    """
    faces = find_faces(analysis, np.asarray(image)[..., :: 1 if channel_order == "rgb" else -1])
    return (faces[0].embedding.astype(np.float32) if faces else np.zeros(EMBEDDING_DIM, np.float32)), len(faces)


def embed_face(image: Image.Image, models_folder: str | Path, channel_order: str, device: str = "cpu") -> np.ndarray:
    """Embed the largest face of a photo.

    Args:
        image: RGB.
        models_folder: antelopev2's folder.
        channel_order: the order of channels handed to insightface, `rgb` (released weights) or `bgr`: a property of
            the checkpoint that the embedding is for.
        device: `cuda` runs the networks there where onnxruntime can.

    Returns:
        (512,) float32, raw (not normalised); zeros, with a warning, where no face is found.

    Raises:
        InputError: the models are missing or damaged.
    """
    embedding, count = embed_largest_face(load_face_analysis(models_folder, device), image, channel_order)
    if not count:
        logger.warning("no face found in the photo: it is animated without identity tokens from a face; a larger, "
                       "frontal, unobstructed face keeps its likeness")  # fmt: skip
    if count > 1:
        logger.info("%d faces found in the photo: the largest is kept", count)
    return embedding
