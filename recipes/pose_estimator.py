"""The pose estimator: 133 key points of a puppet in a box, with DWPose's inputs and outputs.

python -m recipes.pose_estimator
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from DWPose.keypoints import NUM_WHOLEBODY
from DWPose.pose import BOX_PADDING, MEAN_RGB, SPLIT, STD_RGB
from puppets.seeds import generator
from recipes.loop import Exported, conv, export_onnx, recipe_arguments, train
from recipes.scenes import make_scene, spoil

WIDTH, HEIGHT = 288, 384
REDUCTION = 2  # the input is halved first
SIGMA = 6.0  # bins: how wide the right answer is
BODY_WEIGHT = 3.0  # of the 17 body points against the other 116
BOX_ERROR = 0.15  # of the box's width and height: how far its edges are off at most
ONNX = Path("checkpoints/tiny/DWPose/dw-ll_ucoco_384.onnx")


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, width, h, w) → the same."""
        return features + self.second(self.first(features))


class TinyPose(nn.Module):
    """A small SimCC network (arXiv 2107.03332).

    `forward` takes (B, 3, 384, 288), normalised, and returns logits over 576 columns and 768 rows for each key point,
    (B, 133, 576) and (B, 133, 768), and the logits of its presence, (B, 133).
    """

    def __init__(self):
        super().__init__()
        stages = [conv(3, 16, 2), conv(16, 32, 2), _Residual(32), conv(32, 64, 2), _Residual(64)]
        self.backbone = nn.Sequential(*stages, conv(64, 96, 2), _Residual(96), _Residual(96))
        cells = (HEIGHT // REDUCTION // 16) * (WIDTH // REDUCTION // 16)
        self.points = nn.Conv2d(96, NUM_WHOLEBODY, 1)
        self.hidden = nn.Sequential(nn.Linear(cells, 192), nn.ReLU())
        self.columns, self.rows = nn.Linear(192, SPLIT * WIDTH), nn.Linear(192, SPLIT * HEIGHT)
        self.presence = nn.Linear(192, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See the class."""
        maps = self.points(self.backbone(F.avg_pool2d(images, REDUCTION)))  # (B, 133, 12, 9)
        hidden = self.hidden(maps.flatten(2))
        return self.columns(hidden), self.rows(hidden), self.presence(hidden)[..., 0]


class AsDwpose(Exported):
    """Outputs simcc_x and simcc_y, whose peaks are as high as the key point is likely to be there."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, 3, 384, 288) → (1, 133, 576), (1, 133, 768)."""
        columns, rows, presence = self.network(images)
        height = presence.sigmoid()[..., None]
        return tuple(height * torch.exp(bins - bins.amax(-1, keepdim=True)) for bins in (columns, rows))


def make_sample(number: int) -> dict[str, np.ndarray]:
    """A crop around one character as DWPose makes it, its key points in the crop's pixels and their presence."""
    rng = generator("training", number, "pose-sample")
    side = int(rng.integers(96, 193))
    image, truths = make_scene(number, "pose", side, int(side * rng.uniform(0.9, 1.5)))
    image, truth = spoil(image, rng), truths[-1]  # the one in front
    off = BOX_ERROR * rng.uniform() * rng.uniform(-1, 1, 4)  # a detector is mostly right
    box = truth.person_box + off * np.tile(truth.person_box[2:] - truth.person_box[:2], 2)
    extent = np.maximum(box[2:] - box[:2], 8) * BOX_PADDING
    scale = min(WIDTH / extent[0], HEIGHT / extent[1]) * rng.uniform(0.85, 1.1)
    centre = (box[:2] + box[2:]) / 2
    warp = np.array([[scale, 0, WIDTH / 2 - scale * centre[0]], [0, scale, HEIGHT / 2 - scale * centre[1]]])
    crop = cv2.warpAffine(image, warp, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    keypoints = truth.keypoints * scale + warp[:, 2]
    inside = ((keypoints >= 0) & (keypoints < (WIDTH, HEIGHT))).all(axis=1)
    return {
        "image": np.ascontiguousarray(crop.transpose(2, 0, 1)),
        "keypoints": keypoints.astype(np.float32),
        "present": (truth.present & inside).astype(np.float32),
    }


def simcc_loss(model: TinyPose, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cross-entropy with Gaussian answers on both axes where a point is present, and of its presence."""
    mean, std = (torch.tensor(v, dtype=torch.float32, device=batch["image"].device) for v in (MEAN_RGB, STD_RGB))
    images = (batch["image"].float() - mean[:, None, None]) / std[:, None, None]
    columns, rows, presence = model(images)
    weight = batch["present"].clone()
    weight[:, :17] *= BODY_WEIGHT
    places = 0.0
    for axis, logits in enumerate((columns, rows)):
        bins = torch.arange(logits.shape[-1], device=logits.device)
        answer = torch.exp(-(((bins - SPLIT * batch["keypoints"][..., axis, None]) / SIGMA) ** 2) / 2)
        answer = answer / answer.sum(-1, keepdim=True).clamp(min=1e-6)
        places = places - ((answer * logits.log_softmax(-1)).sum(-1) * weight).sum() / weight.sum()
    return {"places": places, "presence": F.binary_cross_entropy_with_logits(presence, batch["present"])}


def main() -> None:
    """Train and export."""
    args = recipe_arguments(__doc__, steps=2500, batch_size=16)
    torch.manual_seed(0)
    model = train("pose_estimator", TinyPose(), simcc_loss, make_sample, args)
    image = torch.zeros(1, 3, HEIGHT, WIDTH)
    export_onnx(AsDwpose(model), args.output / ONNX, {"input": image}, ["simcc_x", "simcc_y"])


if __name__ == "__main__":
    main()
