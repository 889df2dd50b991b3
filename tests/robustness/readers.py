"""Every reader of files, with whole files to start from: what is fuzzed."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from animation.clip.cases import check_cases, read_cases
from animation.clip.request import finished
from animation.clip.settings import ClipSettings
from animation.clip.state import LATENTS_FILE, ClipState
from animation.face.embedding import load_face_embedding
from animation.media.images import FrameFolder, load_photo
from animation.media.sound import load_sound
from animation.media.video import VideoFrames
from animation.weights.layout import CHECKOUT, read_object, small
from animation.weights.loading import load_image_encoder, load_scheduler, load_vae
from animation.weights.onnx import read_arcface_onnx
from animation.weights.state_dicts import read_state_dict
from DWPose.recording import load_recording
from DWPose.sessions import open_session
from tests.synthetic import draw_person, write_checkpoint

MOST_FRAMES = 50  # of a video that are read


@dataclass(frozen=True)
class Reader:
    """What reads a file of a name, in a folder of its own, and whole files for it."""

    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], Iterator[bytes]]


def saved(image: Image.Image, format: str, **options) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pictures(format: str, modes: tuple[str, ...], **options) -> Callable[[], Iterator[bytes]]:
    """A figure, in several modes."""

    def seeds() -> Iterator[bytes]:
        figure = draw_person((40, 56), 0.5, skeleton=False)
        yield from (saved(figure.convert(mode), format, **options) for mode in modes)

    return seeds


def several(format: str) -> Callable[[], Iterator[bytes]]:
    """A figure that moves."""

    def seeds() -> Iterator[bytes]:
        first, *others = (draw_person((40, 56), swing / 5, skeleton=False) for swing in range(5))
        yield saved(first, format, save_all=True, append_images=others, duration=100)

    return seeds


def videos(suffix: str, codec: str, sound: str | None = None) -> Callable[[], Iterator[bytes]]:
    """A short video, with a sound where a codec of one is named."""

    def seeds() -> Iterator[bytes]:
        import av

        buffer = io.BytesIO()
        with av.open(buffer, "w", {"mkv": "matroska"}.get(suffix, suffix)) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv420p"
            track = None if sound is None else container.add_stream(sound, rate=48000, layout="mono")
            for number in range(8):
                image = draw_person((48, 64), number / 8, skeleton=False)
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
            container.mux(stream.encode(None))
            if track is not None:
                samples = np.sin(np.arange(24000) / 20).astype(np.float32)[None]
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.rate = 48000
                container.mux(track.encode(frame))
                container.mux(track.encode(None))
        yield buffer.getvalue()

    return seeds


def read_video(path: Path) -> None:
    """As a driver is read: looked at, its frames, a part of it, its sound."""
    video = VideoFrames(path)
    video.has_even_rate()
    for _ in zip(range(MOST_FRAMES), video, strict=False):
        pass
    load_sound(path, 0.0, 1.0)
    for _ in zip(range(MOST_FRAMES), VideoFrames(path, start=0.3, fps=7), strict=False):
        pass


def key_points(save_arrays: Callable) -> Callable[[], Iterator[bytes]]:
    """The key points of a shipped case, and a few of its arrays only."""

    def seeds() -> Iterator[bytes]:
        arrays = dict(np.load(CHECKOUT / "inference" / "case-1" / "poses" / "keypoints.npz"))
        buffer = io.BytesIO()
        save_arrays(buffer, **arrays)
        yield buffer.getvalue()

    return seeds


def arrays() -> Iterator[bytes]:
    """Face embeddings."""
    for array in (np.zeros(512, np.float32), np.zeros((1, 512)), np.zeros(512, np.int16)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        yield buffer.getvalue()


TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(5, dtype=torch.float16)}


def torch_files(**options) -> Callable[[], Iterator[bytes]]:
    """A small state dict."""

    def seeds() -> Iterator[bytes]:
        buffer = io.BytesIO()
        torch.save(TENSORS, buffer, **options)
        yield buffer.getvalue()

    return seeds


def networks() -> Iterator[bytes]:
    """The smallest of the shipped ONNX networks."""
    paths = sorted(small(CHECKOUT).face_models.glob("*.onnx"), key=lambda path: path.stat().st_size)
    yield paths[0].read_bytes()


def cases() -> Iterator[bytes]:
    """Files of cases."""
    case = CHECKOUT / "inference" / "case-1"
    yield f"- photo: {case}/reference.png\n  video: {case}/poses\n  seed: 3\n- {{name: b, video: b.mp4}}\n".encode()
    yield b"- name: 'x y'\n  photo: a.png\n  guidance_scale: 1.5\n  gif: true\n  loop: 2\n# end\n"


def read_all_cases(path: Path) -> None:
    """Each case is checked as far as that goes without a network."""
    check_cases(ClipSettings(output=str(path.parent / "out")), read_cases(path))


def states() -> Iterator[bytes]:
    """The latents of an unfinished clip."""
    tensors = {"latents": torch.zeros(1, 2, 4, 8, 8), "random_state": torch.Generator().get_state()}
    yield save(tensors, {"facts": json.dumps({"step": 1, "cfg_batch": 2, "notes": []})})


class Denoiser:
    """What a state restores."""

    cfg_batch = 1


def read_state(path: Path) -> None:
    """As a clip resumes."""
    folder = path.parent / ".unfinished"
    folder.mkdir()
    try:
        shutil.copy(path, folder / LATENTS_FILE)
        (folder / "state.json").write_text('{"sampling": {}, "decoding": {}}')
        ClipState(path.parent, {}, {}).denoising(torch.Generator()).restore(Denoiser())
    finally:
        shutil.rmtree(folder)


def runs() -> Iterator[bytes]:
    """What a finished clip says of itself."""
    yield json.dumps({"request": "0" * 64, "key": "1", "outputs": ["animation.mp4"], "csim": None}).encode()


def read_run(path: Path) -> None:
    """As animate.py does where it was at work before."""
    settings = ClipSettings(photo="a", video="b", output=str(path.parent))

    class Inputs:
        class driver:
            describe = staticmethod(dict)

    finished(settings, Inputs)
    ClipState(path.parent, {}, {}).remove()


def configs(name: str) -> Callable[[], Iterator[bytes]]:
    """A config of a small checkpoint."""

    def seeds() -> Iterator[bytes]:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            svd = next((write_checkpoint(Path(folder)) / "SVD").iterdir())
            yield next((svd / name).glob("*config.json")).read_bytes()

    return seeds


def config_of(load: Callable) -> Callable[[Path], object]:
    """A loader of the folder that a config is in, which ends where the weights are not there."""
    return lambda path: load(path.parent)


READERS = {
    "png": Reader("photo.png", load_photo, pictures("PNG", ("RGB", "P", "RGBA", "I;16", "1"))),
    "jpeg": Reader("photo.jpg", load_photo, pictures("JPEG", ("RGB", "L", "CMYK"))),
    "webp": Reader("photo.webp", load_photo, pictures("WEBP", ("RGB", "RGBA"))),
    "gif": Reader("photo.gif", load_photo, pictures("GIF", ("P", "L"))),
    "tiff": Reader("photo.tif", load_photo, pictures("TIFF", ("RGB", "L", "I;16"))),
    "frames": Reader("frame_0.png", lambda path: list(FrameFolder(path.parent)), pictures("PNG", ("RGB", "P"))),
    "animated gif": Reader("driver.gif", read_video, several("GIF")),
    "animated webp": Reader("driver.webp", read_video, several("WEBP")),
    "mp4": Reader("driver.mp4", read_video, videos("mp4", "libx264", "aac")),
    "mov": Reader("driver.mov", read_video, videos("mov", "mpeg4")),
    "webm": Reader("driver.webm", read_video, videos("webm", "libvpx-vp9")),
    "npz": Reader("keypoints.npz", load_recording, key_points(np.savez)),
    "compressed npz": Reader("keypoints.npz", load_recording, key_points(np.savez_compressed)),
    "npy": Reader("face.npy", load_face_embedding, arrays),
    "safetensors": Reader("unet.safetensors", read_state_dict, lambda: iter([save(TENSORS)])),
    "pth": Reader("unet.pth", read_state_dict, torch_files()),
    "old pth": Reader("unet.pth", read_state_dict, torch_files(_use_new_zipfile_serialization=False)),
    "onnx": Reader("yolox_l.onnx", open_session, networks),
    "arcface onnx": Reader("glintr100.onnx", read_arcface_onnx, networks),
    "yaml": Reader("cases.yaml", read_all_cases, cases),
    "state": Reader("latents.safetensors", read_state, states),
    "run.json": Reader("run.json", read_run, runs),
    "model.json": Reader("model.json", read_object, runs),
    "vae config": Reader("config.json", config_of(load_vae), configs("vae")),
    "encoder config": Reader("config.json", config_of(load_image_encoder), configs("image_encoder")),
    "scheduler config": Reader("scheduler_config.json", config_of(load_scheduler), configs("scheduler")),
}
