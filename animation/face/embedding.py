"""The face embedding of a photo, by insightface's antelopev2 (ArcFace)."""

import logging
from operator import attrgetter
from pathlib import Path

import numpy as np
from PIL import Image

from animation.errors import InputError
from animation.face.detection import Face, FaceFinder
from animation.media.images import counted
from animation.networks import ANEW, Networks

logger = logging.getLogger(__name__)

EMBEDDING_DIM = 512
NO_FACE = "no face was found in it; give a picture with a larger, frontal, unobstructed face"


def load_face_embedding(path: str | Path) -> np.ndarray:
    """Read a stored embedding, a .npy file of 512 finite numbers of shape (512,) or (1, 512), as (512,) float32.

    Raises:
        InputError: no such file, not an array, or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such face embedding; give a .npy file of {EMBEDDING_DIM} numbers")
    try:
        declared = np.load(path, mmap_mode="r", allow_pickle=False)  # of a damaged file as long as it says, if at all
        shape = getattr(declared, "shape", type(declared).__name__)
        embedding = np.array(declared) if shape in ((EMBEDDING_DIM,), (1, EMBEDDING_DIM)) else None
    except Exception as error:  # of a damaged header: from tokenize, ast, struct, zipfile and mmap
        raise InputError(f"{path}: not a .npy array of numbers ({error}); save it with numpy.save") from None
    if embedding is None:
        raise InputError(f"{path}: an embedding of shape {shape}; it must be ({EMBEDDING_DIM},)")
    if embedding.dtype.kind not in "fiu" or not np.isfinite(embedding).all():
        raise InputError(f"{path}: values of {embedding.dtype} that are not finite numbers; make it again")
    return embedding.reshape(EMBEDDING_DIM).astype(np.float32)


def choose_face(faces: list[Face], number: int | None = None, near: np.ndarray | None = None) -> Face:
    """The largest of at least one face.

    Args:
        number: or the one of a number, counted from the left and from 0.
        near: or the one whose centre is nearest to a point, x and y in pixels.

    Raises:
        InputError: there is no face of that number.
    """
    if number is not None and number >= len(faces):
        raise InputError(
            f"--face {number}: {counted(len(faces), 'face')} found in the photo, counted from 0 and from the left; "
            f"give at most {len(faces) - 1}, or leave it out for the largest"
        )
    if near is not None:
        return min(faces, key=lambda face: float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - near)))
    face = max(faces, key=attrgetter("area")) if number is None else faces[number]
    if len(faces) > 1:
        taken = f"number {faces.index(face)} from the left is taken{', the largest' if number is None else ''}"
        logger.info(f"{len(faces)} faces found in the photo: {taken}; --face takes another")
    return face


def embed_largest(finder: FaceFinder, image_rgb: np.ndarray, channel_order: str) -> np.ndarray | None:
    """The raw embedding, (512,) float32, of the largest face of a picture, (H, W, 3) uint8; None without one."""
    faces, _ = finder(image_rgb, channel_order)
    return finder.embed(image_rgb, max(faces, key=attrgetter("area")), channel_order) if faces else None


def embed_face(
    image: Image.Image,
    models_folder: str | Path,
    channel_order: str,
    device: str = "cpu",
    face_number: int | None = None,
    dwpose_folder: str | Path | None = None,
) -> np.ndarray:
    """What `find_and_embed` gives, without the face: (512,) float32."""
    return find_and_embed(image, models_folder, channel_order, device, face_number, dwpose_folder)[0]


def find_and_embed(
    image: Image.Image,
    models_folder: str | Path,
    channel_order: str,
    device: str = "cpu",
    face_number: int | None = None,
    dwpose_folder: str | Path | None = None,
    networks: Networks = ANEW,
    face_photo: Image.Image | None = None,
) -> tuple[np.ndarray, Face | None]:
    """Choose one face of a photo, an RGB image, and embed it, or the largest face of another picture in its place.

    Args:
        models_folder, dwpose_folder, device: see `FaceFinder`.
        channel_order: the order of channels handed to insightface, `rgb` (released weights) or `bgr`: a property of
            the checkpoint that the embedding is for.
        face_number: which face, from the left and from 0; None: the largest.
        networks: that are open already.
        face_photo: RGB, the other picture.

    Returns:
        (512,) float32, raw (not normalised), and the photo's face; without one, None and, with a warning, zeros.

    Raises:
        InputError: the models are missing or damaged, there is no face of that number, or none in the other picture.
    """
    pixels = np.asarray(image)
    finder = networks.open(FaceFinder, models_folder, dwpose_folder, device, networks)
    faces, way = finder(pixels, channel_order)
    if face_photo is not None:
        embedding = embed_largest(finder, np.asarray(face_photo), channel_order)
        if embedding is None:
            raise InputError(f"--face_photo: {NO_FACE}")
        return embedding, choose_face(faces, face_number) if faces else None
    if not faces:
        unseen = "" if finder.dwpose_paths else "; DWPose's networks are not there to look too"
        logger.warning(
            "no face found in the photo: it is animated without identity tokens from a face; a larger, frontal, "
            f"unobstructed face keeps its likeness{unseen}"
        )
        return np.zeros(EMBEDDING_DIM, np.float32), None
    logger.info(f"the photo's face was found by {way}")
    face = choose_face(faces, face_number)
    return finder.embed(pixels, face, channel_order), face
