"""The face recogniser: who a puppet is, from 112 × 112 pixels of its face.

    python -m recipes.recogniser

The project's own iResNet, narrow and shallow, trained with CosFace's margin (arXiv 1801.09414) to tell the training
characters apart. Half of the faces are aligned by five landmarks, as a detector's are, half are boxes as they stand, as
the face optimisation cuts them out.
"""

import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from animation.modules.arcface import FACE_SIZE, ArcFace
from puppets.characters import make_character
from puppets.motions import make_motion
from puppets.rendering import Place, render
from puppets.seeds import generator
from recipes.loop import export_onnx, recipe_arguments, train
from recipes.scenes import make_stage, spoil

PEOPLE = 800  # training characters to tell apart
SCALE, MARGIN = 24.0, 0.25
WIDTHS, DEPTHS = (8, 16, 32, 48, 32), (1, 1, 1, 1)
ONNX = Path("models/tiny/antelopev2/glintr100.onnx")
TORCH = Path("checkpoints/tiny/Animation/glintr100_torch.safetensors")


class Recogniser(nn.Module):
    """ArcFace's network with the classes that it is trained on."""

    def __init__(self):
        super().__init__()
        self.arcface = ArcFace(widths=WIDTHS, depths=DEPTHS)
        self.classes = nn.Parameter(torch.randn(PEOPLE, self.arcface.config.embedding_dim) * 0.05)


def make_face(split: str, who: int, number: int, aligned: bool | None = None) -> np.ndarray:
    """Picture `number` of a character's face at some moment of some motion, (112, 112, 3) uint8 RGB.

    Aligned by five landmarks, as insightface does, or a box as it stands; None for either.
    """
    from insightface.utils import face_align

    rng = generator(split, number, "face")
    pose = make_motion(split, int(rng.integers(1 << 20)))(rng.uniform(0, 64))
    size = float(rng.uniform(1.5, 3.2))
    place = Place(0.5, 0.1 + 0.84 * size + rng.uniform(0, 0.25), size)
    side = int(rng.integers(64, 129))
    image, truths = render([(make_character(split, who), pose, place)], make_stage(rng), side, side)
    image, truth = spoil(image, rng), truths[0]
    face = np.ptp(truth.face_box[::2])
    if aligned or (aligned is None and rng.random() < 0.5):
        landmarks = truth.landmarks + rng.normal(0, 0.03 * face, (5, 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # insightface's use of scikit-image
            return face_align.norm_crop(image, landmarks.astype(np.float32), FACE_SIZE)
    box = (truth.face_box + rng.normal(0, 0.06 * face, 4)).round().astype(int)
    left, top, right, bottom = np.clip(box, 0, side)
    if min(right - left, bottom - top) >= 8:
        image = image[top:bottom, left:right]
    return cv2.resize(image, (FACE_SIZE, FACE_SIZE))


def make_sample(number: int) -> dict[str, np.ndarray]:
    """A face and who it is."""
    who = int(generator("training", number, "who").integers(PEOPLE))
    return {"image": make_face("training", who, number).transpose(2, 0, 1), "who": np.int64(who)}


def cosface_loss(model: Recogniser, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cross-entropy of cosines, the right one lowered by a margin."""
    embeddings = model.arcface(batch["image"].float() / 127.5 - 1)
    cosines = F.normalize(embeddings) @ F.normalize(model.classes).T
    wanted = F.one_hot(batch["who"], PEOPLE)
    return {"identity": F.cross_entropy(SCALE * (cosines - MARGIN * wanted), batch["who"])}


def main() -> None:
    """Train and export, as ONNX for insightface and as tensors for the face optimisation."""
    args = recipe_arguments(__doc__, steps=2500, batch_size=32)
    torch.manual_seed(0)
    recogniser = Recogniser()
    if args.finetune:
        recogniser.arcface.load_state_dict(load_file(args.output / TORCH))
    arcface = train("recogniser", recogniser, cosface_loss, make_sample, args).arcface
    export_onnx(arcface, args.output / ONNX, {"input.1": torch.zeros(1, 3, FACE_SIZE, FACE_SIZE)}, ["1333"])
    (args.output / TORCH).parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in arcface.state_dict().items()}
    save_file(tensors, args.output / TORCH)


if __name__ == "__main__":
    main()
