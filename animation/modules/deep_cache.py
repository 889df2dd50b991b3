"""Features of the UNet's deep layers, kept at one step and used at the next ones (Ma 2024, DeepCache)."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from animation.modules.unet import PoseGuidedUNet


class Recall(nn.Module):
    """Stands for all layers below the first resolution: kept features, enlarged to it."""

    def __init__(self, features: Tensor, upsampler: nn.Module):
        super().__init__()
        self.features, self.upsampler = features, upsampler

    def forward(self, hidden_states: Tensor, **_: object) -> Tensor:
        """(B·F, C, h, w), whatever comes in."""
        return self.upsampler(self.features)


@contextmanager
def keep_deep(unet: PoseGuidedUNet) -> Iterator[list[Tensor]]:
    """Within, the deep features of each call are appended to a list: (B·F, C, h/2, w/2)."""
    kept: list[Tensor] = []
    with unet.up_blocks[-2].upsamplers[0].register_forward_pre_hook(lambda _layer, inputs: kept.append(inputs[0])):
        yield kept


@contextmanager
def recall_deep(unet: PoseGuidedUNet, features: Tensor) -> Iterator[None]:
    """Within, the UNet's layers below its first resolution are left out, and features of `keep_deep` stand for them."""
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    parts, downsamplers = dict(unet._modules), first._modules["downsamplers"]
    try:
        first._modules["downsamplers"] = None
        unet._modules["mid_block"] = Recall(features, unet.up_blocks[-2].upsamplers[0])
        unet._modules["down_blocks"], unet._modules["up_blocks"] = nn.ModuleList([first]), nn.ModuleList([last])
        yield
    finally:
        first._modules["downsamplers"] = downsamplers
        unet._modules.update(parts)


class DeepFeatures:
    """Deep features of a video by guidance branch and by frame, so that windows may move between steps."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None

    def keep(self, branches: slice, frames: Tensor, num_frames: int, features: Tensor) -> None:
        """Keep (B·f, C, h, w) of so many branches for these frames; later ones replace earlier ones."""
        features = features.unflatten(0, (-1, len(frames)))
        if self.kept is None:
            self.kept = features.new_zeros(2, num_frames, *features.shape[2:])
        self.kept[branches].index_copy_(1, frames, features)

    def recall(self, branches: slice, frames: Tensor) -> Tensor:
        """(B·f, C, h, w), as they were kept."""
        assert self.kept is not None
        return self.kept[branches].index_select(1, frames).flatten(0, 1)
