"""Two detectors of one kind: people with YOLOX's inputs and outputs, faces with SCRFD's.

    python -m recipes.detectors person
    python -m recipes.detectors face

Both reduce the 640 × 640 input four times and look at it on three grids, of 8, 16 and 32 pixels a cell.
"""

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from puppets.seeds import generator
from recipes.loop import Exported, conv, export_onnx, recipe_arguments, train
from recipes.scenes import make_scene, spoil

SIDE, REDUCTION, STRIDES = 640, 4, (8, 16, 32)
LEAST_SIZE = (0, 48, 112)  # pixels of 640: the side from which an object belongs to a grid
MOST_OBJECTS = 2
LANDMARKS = 5
OUTPUTS = {
    "person": Path("checkpoints/tiny/DWPose/yolox_l.onnx"),
    "face": Path("models/tiny/antelopev2/scrfd_10g_bnkps.onnx"),
}


class Detector(nn.Module):
    """For each cell of the grids a score, a box and, of faces, five landmarks.

    `forward` takes (B, 3, 160, 160) in −1..1 and returns for each grid (B, 15, cells, cells): the score's logit, the
    distances from the cell to the box's left, top, right and bottom as logarithms of cells, and the landmarks' places
    from the cell, in cells.
    """

    def __init__(self):
        super().__init__()
        self.fine = conv(3, 16, 2)
        self.middle = nn.Sequential(conv(16, 32, 2), conv(32, 32))
        self.coarse = nn.Sequential(conv(32, 64, 2), conv(64, 64), conv(64, 64, dilation=2), conv(64, 64, dilation=4))
        self.down = nn.Conv2d(64, 32, 1)
        self.join = conv(32, 32)
        self.heads = nn.ModuleList(nn.Conv2d(width, 5 + 2 * LANDMARKS, 1) for width in (16, 32, 64))
        for head in self.heads:
            nn.init.constant_(head.bias[:1], -4.0)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """See the class."""
        fine = self.fine(images)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.join(middle + F.interpolate(self.down(coarse), scale_factor=2, mode="nearest"))
        return [head(features) for head, features in zip(self.heads, (fine, middle, coarse), strict=True)]


def _distances(logarithms: torch.Tensor) -> torch.Tensor:
    return torch.exp(logarithms.clamp(max=4))


class AsYolox(Exported):
    """Input (1, 3, 640, 640) of 0..255, output (1, 8400, 85)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        found = []
        for out in self.network(F.avg_pool2d(images, REDUCTION) / 127.5 - 1):
            cells = rearrange(out, "1 c h w -> 1 (h w) c")
            low, high = _distances(cells[..., 1:5]).chunk(2, dim=-1)
            score = cells[..., :1].sigmoid()
            person, others = torch.ones_like(score), torch.zeros_like(score).expand(-1, -1, 79)
            found.append(torch.cat([(high - low) / 2, torch.log(high + low), score, person, others], dim=-1))
        return torch.cat(found, dim=1)


class AsScrfd(Exported):
    """Input (1, 3, 640, 640) in about −1..1; scores, boxes and landmarks of three grids, two alike a cell."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        grids = [repeat(out, "1 c h w -> (h w 2) c") for out in self.network(F.avg_pool2d(images, REDUCTION))]
        scores, boxes = [grid[:, :1].sigmoid() for grid in grids], [_distances(grid[:, 1:5]) for grid in grids]
        return (*scores, *boxes, *(grid[:, 5:] for grid in grids))


def make_sample(kind: str, number: int) -> dict[str, np.ndarray]:
    """A picture of 160 × 160 and its objects' boxes (2, 4) and landmarks (2, 10) in pixels of 640."""
    rng = generator("training", number, f"{kind}-sample")
    width, height = (int(side) for side in rng.integers(96, 161, 2))
    image, truths = make_scene(number, kind, width, height)
    side = SIDE // REDUCTION
    scale = side / max(width, height)
    small = cv2.resize(spoil(image, rng), None, fx=scale, fy=scale)[:side, :side]
    square = np.full((side, side, 3), rng.choice([0, 114]), np.uint8)
    square[: small.shape[0], : small.shape[1]] = small
    boxes, landmarks = np.zeros((MOST_OBJECTS, 4), np.float32), np.zeros((MOST_OBJECTS, 2 * LANDMARKS), np.float32)
    for k, truth in enumerate(truths):
        if kind == "person":
            boxes[k] = truth.person_box
        elif truth.visible[:3].sum() >= 2 and truth.face_mask.any():
            boxes[k], landmarks[k] = truth.face_box, truth.landmarks.ravel()
    if rng.random() < 0.5:
        square = square[..., ::-1]
    zoom = np.float32(REDUCTION * scale)
    square = np.ascontiguousarray(square.transpose(2, 0, 1))
    return {"image": square, "boxes": boxes * zoom, "landmarks": landmarks * zoom}


def detection_loss(kind: str, model: Detector, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Focal loss of the scores; intersection over union of the boxes and distances of landmarks where there are."""
    images = batch["image"].float() / 127.5 - 1
    boxes, landmarks = batch["boxes"], batch["landmarks"]  # (B, 2, 4), (B, 2, 10)
    middle, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    sizes = extent.amax(-1)
    score_loss, box_losses, landmark_losses = 0.0, [], []
    for out, stride, (least, largest) in zip(model(images), STRIDES, pairwise((*LEAST_SIZE, np.inf)), strict=True):
        axis = torch.arange(SIDE // stride, device=out.device) * float(stride)
        cells = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # corners, as both families count
        reach = (0.2 * extent).clamp(min=0.75 * stride)
        near = ((cells[None, None] - middle[:, :, None, None]).abs() <= reach[:, :, None, None]).all(-1)  # (B, 2, c, c)
        own = (sizes > least) & (sizes <= largest)
        near &= own[:, :, None, None]
        logits = out[:, 0]
        target = near.any(1).float()
        chance = torch.where(target > 0, logits.sigmoid(), 1 - logits.sigmoid())
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * (1 - chance) ** 2
        score_loss = score_loss + losses.sum() / (own.sum() + 1) * 0.05
        batch_index, who, row, column = near.nonzero(as_tuple=True)
        if len(batch_index) == 0:
            continue
        found, places = out[batch_index, :, row, column], cells[row, column]
        distances = _distances(found[:, 1:5]) * stride
        wanted = boxes[batch_index, who]
        wanted = torch.cat([places - wanted[:, :2], wanted[:, 2:] - places], dim=1).clamp(min=0)
        low = torch.minimum(distances, wanted)
        shared = (low[:, 0] + low[:, 2]) * (low[:, 1] + low[:, 3])
        area, wanted_area = ((d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3]) for d in (distances, wanted))
        box_losses.append(-torch.log((shared / (area + wanted_area - shared)).clamp(min=1e-3)))
        if kind == "face":
            points = found[:, 5:] * stride + places.repeat(1, LANDMARKS)
            error = (points - landmarks[batch_index, who]) / sizes[batch_index, who][:, None]
            landmark_losses.append(10 * error.abs().mean(1))
    losses = {"score": score_loss}
    for name, parts in (("box", box_losses), ("landmarks", landmark_losses)):
        if parts:
            losses[name] = torch.cat(parts).mean()
    return losses


def main() -> None:
    """Train and export one of the two."""
    kind = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in OUTPUTS else sys.exit("say person or face")
    args = recipe_arguments(__doc__, steps=1500, batch_size=16)
    torch.manual_seed(0)
    model = train(f"{kind}_detector", Detector(), partial(detection_loss, kind), partial(make_sample, kind), args)
    grids = [f"{part}_{stride}" for part in ("score", "bbox", "kps") for stride in STRIDES]
    exported, source, outputs = {
        "person": (AsYolox(model), "images", ["output"]),
        "face": (AsScrfd(model), "input.1", grids),
    }[kind]
    export_onnx(exported, args.output / OUTPUTS[kind], {source: torch.zeros(1, 3, SIDE, SIDE)}, outputs)


if __name__ == "__main__":
    main()
