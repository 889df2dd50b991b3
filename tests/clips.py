"""What a clip is made of in tests: settings of a small run, and recorded key points of a figure that walks."""

from pathlib import Path

import numpy as np
from PIL import Image

from animation.clip.settings import ClipSettings
from DWPose.keypoints import People
from DWPose.recording import Recording
from tests.pose_models import figure

FRAMES = 6


def write_keypoints(path: Path, num_frames: int = FRAMES, size: tuple[int, int] = (64, 64), fps: float = 10) -> Path:
    """Write key points of a figure that shifts to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    people = [
        People(
            np.array([[0.0, 0, *size]]),
            (figure() + np.array([0.02 * k - 0.05, 0]))[None] * size,
            np.full((1, 133), 0.9),
        )
        for k in range(num_frames)
    ]
    Recording(None, None, people, size, fps).save(path)
    return path


def clip_settings(folder: Path, checkpoint: Path, case: Path, **changes) -> ClipSettings:
    """Two steps of six frames of 64×64, by recorded key points, which no network is needed for."""
    video = folder / "keypoints.npz"
    if "video" not in changes and not video.exists():
        write_keypoints(video)
    animation = checkpoint / "Animation"
    values = {
        "photo": str(case / "reference.png"),
        "video": str(video),
        "output": str(folder / "out"),
        "face_embedding": str(case / "face_embedding.npy"),
        "size": "64x64",
        "alignment": "none",
        "canvas": 256,
        "num_inference_steps": 2,
        "tile_size": 4,
        "frames_overlap": 1,
        "decode_chunk_size": 2,
        "no_figures": True,
        "device": "cpu",
        "pretrained_model_name_or_path": str(checkpoint / "SVD"),
        "unet_model_name_or_path": str(animation / "unet.pth"),
        "posenet_model_name_or_path": str(animation / "pose_net.pth"),
        "face_encoder_model_name_or_path": str(animation / "face_encoder.pth"),
        "face_embedding_extractor_weight_path": str(animation / "glintr100_torch.pth"),
        "face_models": str(folder / "no-face-models"),
        "dwpose_models": str(folder / "no-dwpose"),
    }
    return ClipSettings(**(values | changes))


def flags_of(settings: ClipSettings) -> list[str]:
    """The same settings as flags of animate.py."""
    flags = []
    for name, value in vars(settings).items():
        if value is True:
            flags.append(f"--{name}")
        elif value is not None and value is not False:
            flags.append(f"--{name}={value}")
    return flags


def frames_of(output: str | Path) -> np.ndarray:
    """The finished frames, (F, H, W, 3)."""
    paths = sorted(Path(output, "animated_images").glob("frame_*.png"), key=lambda path: int(path.stem[6:]))
    return np.stack([np.asarray(Image.open(path)) for path in paths])
