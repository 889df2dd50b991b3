"""Bad input ends with one line that says what to do, odd input works, and a full disk costs no work."""

import errno
import os
import signal
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from animation import cli
from animation.clip.flow import Models, make_clip
from animation.commands import animate
from animation.errors import InputError
from animation.flags import parse
from DWPose.keypoints import People
from DWPose.recording import Recording
from tests import pose_models
from tests.clips import FRAMES, clip_settings, flags_of, frames_of, write_keypoints
from tests.test_animate import walk, write_dance
from tests.test_skeleton_extraction import picture, write_frames


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.fixture(scope="module")
def dwpose(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dwpose")
    pose_models.write_models(folder)
    return str(folder)


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def image(path, mode="RGB", size=(64, 64), **options):
    Image.new(mode, size).save(path, **options)
    return str(path)


def cut(path, share):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])
    return str(path)


def noise_image(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(path)
    return path


def tone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def same_numbers(folder):
    write_frames(folder, walk(1))
    image(folder / "other_0.png")
    return str(folder)


def broken_frame(folder):
    write_frames(folder, walk(2))
    cut(folder / "frame_1.png", 0.5)
    return str(folder)


def numberless(folder):
    folder.mkdir()
    image(folder / "picture.png")
    return str(folder)


def no_points(path):
    Recording(None, None, [], (64, 64), 10).save(path)
    return str(path)


def nobody(path):
    Recording(
        None, None, [People(np.empty((0, 4)), np.empty((0, 133, 2)), np.empty((0, 133)), False)], (64, 64), 10
    ).save(path)
    return str(path)


def other_arrays(path):
    np.savez(path, a=np.zeros(3))
    return str(path)


def embedding(path, array):
    np.save(path, array)
    return str(path)


BAD = {  # what is wrong: what it is in, given the folder of the test; and a part of the message
    "no photo": (lambda p: {"photo": None}, "--photo is missing"),
    "photo nowhere": (lambda p: {"photo": "nowhere.png"}, "nowhere.png: no such photo"),
    "photo's name is empty": (lambda p: {"photo": ""}, "--photo is missing"),
    "photo a folder": (lambda p: {"photo": str(p)}, "no such photo; give the path of one image file"),
    "photo empty": (lambda p: {"photo": write(p / "a.png")}, "not a readable image"),
    "photo text": (lambda p: {"photo": write(p / "a.png", b"hello")}, "not a readable image"),
    "photo broken off": (lambda p: {"photo": cut(noise_image(p / "a.png"), 0.5)}, "not a readable image"),
    "photo an animation": (
        lambda p: {"photo": image(p / "a.gif", save_all=True, append_images=[Image.new("RGB", (64, 64), "red")])},
        "an animation of 2 frames; give one still image",
    ),
    "photo of floats": (lambda p: {"photo": image(p / "a.tif", "F")}, "save it with 8 bits a channel"),
    "no driver": (lambda p: {"video": None}, "--video is missing"),
    "driver nowhere": (lambda p: {"video": "nowhere.mp4"}, "nowhere.mp4: no such driver"),
    "driver empty": (lambda p: {"video": write(p / "a.mp4")}, "a.mp4: is empty"),
    "driver text": (lambda p: {"video": write(p / "a.mp4", b"hello" * 100)}, "not a readable video"),
    "driver without its index": (lambda p: {"video": cut(write_dance(p / "a.mp4"), 0.5)}, "not a readable video"),
    "driver without pictures": (lambda p: {"video": tone(p / "a.mp4")}, "no video stream in it, only audio"),
    "driver an empty folder": (lambda p: {"video": str(Path(write(p / "a" / "x")).parent)}, "no PNG or JPEG frames"),
    "frames of one number": (lambda p: {"video": same_numbers(p / "a")}, "have the same number; keep one of them"),
    "frames without numbers": (lambda p: {"video": numberless(p / "a")}, "picture.png"),
    "a frame broken off": (lambda p: {"video": broken_frame(p / "a")}, "frame_1.png"),
    "key points that are none": (lambda p: {"video": write(p / "a.npz", b"hello")}, "not a file of key points"),
    "key points of something else": (lambda p: {"video": other_arrays(p / "a.npz")}, "not a file of key points"),
    "key points of no frame": (lambda p: {"video": no_points(p / "a.npz")}, "holds no frame"),
    "driver of another kind": (lambda p: {"driver_kind": "frames"}, "cannot be a folder of frames, being a file"),
    "start below 0": (lambda p: {"start": -1.0}, "--start -1.0 is not a time in the video"),
    "start after the end": (lambda p: {"start": 9.0}, "no frame in the part that is wanted; it lasts 0.60 s"),
    "end before start": (lambda p: {"start": 0.3, "end": 0.2}, "--end 0.2 is not after --start 0.3"),
    "end not a number": (lambda p: {"end": float("nan")}, "--end nan is not a finite number"),
    "no seconds": (lambda p: {"max_seconds": 0.0}, "--max_seconds 0.0 is not above 0"),
    "no frames a second": (lambda p: {"fps": 0.0}, "--fps 0.0 is out of range"),
    "too many frames a second": (lambda p: {"fps": 1000.0}, "--fps 1000.0 is out of range"),
    "shown no time": (lambda p: {"loop": 0}, "--loop 0 is below 1; give 1 or more"),
    "shown for ever": (lambda p: {"loop": 10**6}, "--loop 1000000 is above 1000"),
    "size no multiple": (lambda p: {"size": "500x512"}, "width 500 is not a multiple of 64"),
    "size in words": (lambda p: {"size": "big"}, "--size big: not understood; give WIDTHxHEIGHT"),
    "size too large": (lambda p: {"size": "8192x8192"}, "above 4096 pixels"),
    "no steps": (lambda p: {"num_inference_steps": 0}, "--num_inference_steps 0 is below 1"),
    "windows of one": (lambda p: {"tile_size": 1}, "--tile_size 1 is below 2"),
    "overlap of all": (lambda p: {"frames_overlap": 4}, "--frames_overlap 4 is not below --tile_size 4"),
    "chunk of none": (lambda p: {"decode_chunk_size": 0}, "--decode_chunk_size 0 is below 1"),
    "guidance not a number": (lambda p: {"guidance_scale": float("nan")}, "--guidance_scale nan is not a finite"),
    "noise below none": (lambda p: {"noise_aug_strength": -1.0}, "--noise_aug_strength -1.0 is below 0"),
    "seed below 0": (lambda p: {"seed": -1}, "--seed -1 is below 0"),
    "seed too large": (lambda p: {"seed": 2**64}, "is above 9223372036854775807"),
    "canvas too small": (lambda p: {"canvas": 3}, "--canvas 3 is below 64"),
    "confidence too large": (lambda p: {"confidence": 2.0}, "--confidence 2.0 is not below 1"),
    "person unknown": (lambda p: {"person": "me"}, "--person 'me' is unknown"),
    "memory of none": (lambda p: {"max_vram": 0.0}, "--max_vram 0.0 is not above 0"),
    "refining after the end": (
        lambda p: {"start_refine_step": 2, "face_optimization": True},
        "is after the last of 2 steps",
    ),
    "no recogniser to refine with": (
        lambda p: {"face_optimization": True, "face_embedding_extractor_weight_path": "nowhere.pth"},
        "nowhere.pth: no such file; give ArcFace's weights",
    ),
    "embedding nowhere": (lambda p: {"face_embedding": "nowhere.npy"}, "no such face embedding"),
    "embedding too short": (lambda p: {"face_embedding": embedding(p / "a.npy", np.zeros(5))}, "it must be (512,)"),
    "embedding not of numbers": (
        lambda p: {"face_embedding": embedding(p / "a.npy", np.full(512, np.nan))},
        "not finite numbers",
    ),
    "no face models": (lambda p: {"face_embedding": None}, "or give a stored vector with --face_embedding"),
    "no output": (lambda p: {"output": None}, "--output is missing"),
    "output a file": (lambda p: {"output": write(p / "a")}, "cannot be written to"),
    "output in a file": (lambda p: {"output": f"{write(p / 'a')}/b"}, "cannot be written to"),
    "output on the driver": (
        lambda p: {"output": str(write_frames(p / "a", walk(1))), "video": str(p / "a"), "driver_kind": "poses"},
        "its results would fall on the driver",
    ),
    "UNet nowhere": (lambda p: {"unet_model_name_or_path": "nowhere.pth"}, "nowhere.pth: no such file"),
    "UNet damaged": (lambda p: {"unet_model_name_or_path": write(p / "a.pth", b"hello")}, "a.pth: "),
    "SVD nowhere": (lambda p: {"pretrained_model_name_or_path": "nowhere"}, "model_index.json not found"),
    "preview VAE nowhere": (lambda p: {"vae": "nowhere"}, "nowhere"),
    "no networks for a video": (lambda p: {"video": str(write_dance(p / "a.mp4"))}, "skeletons are found with it"),
    "nobody in the key points": (lambda p: {"video": nobody(p / "a.npz")}, "no person was found in any frame"),
    "device nowhere": (lambda p: {"device": "cuda:99"}, "--device cuda:99"),
    "half precision on a CPU": (lambda p: {"dtype": "fp16"}, "fp16 on a CPU"),
    "offloading from a CPU": (lambda p: {"offload": "model"}, "--offload model"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_status_2(tmp_path, checkpoint, case, monkeypatch, capsys, name):
    change, message = BAD[name]
    settings = replace(clip_settings(tmp_path, checkpoint, case), **change(tmp_path))
    monkeypatch.setattr(sys, "argv", ["animate.py", *flags_of(settings)])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.run(animate.main)
    signal.signal(signal.SIGTERM, handler)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert told.strip().endswith(errors[0])
    assert "Traceback" not in told
    assert not Path(settings.output or "nowhere", "animation.mp4").exists()


def test_the_table_is_long_enough():
    assert len(BAD) >= 40


@pytest.mark.parametrize("flag", ["--fit=squeeze", "--preset=great", "--anchor=last", "--seed=many", "--unknown=1"])
def test_words_that_no_flag_knows(flag):
    with pytest.raises(InputError, match=flag.split("=")[0]):
        parse(animate.AnimateSettings, None, [flag])


def silent_sound(path):
    """A video whose sound track is empty."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        container.add_stream("aac", rate=44100, layout="mono")
        for number, pixels in enumerate(walk(2)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def uneven(path):
    """Frames at 0, 0.1, 0.2 and 0.8 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        for time, pixels in zip((0, 100, 200, 800), walk(4), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def four_k(folder):
    write_frames(folder, [picture((160, 120)).repeat(12, axis=0).repeat(12, axis=1)])
    return folder


ODD = {  # what is odd, and how it is made
    "one frame": lambda p: {"video": str(write_dance(p / "a.mp4", count=1))},
    "a sound track without sound": lambda p: {"video": str(silent_sound(p / "a.mp4"))},
    "a variable frame rate": lambda p: {"video": str(uneven(p / "a.mp4"))},
    "a 4K frame": lambda p: {"video": str(four_k(p / "a")), "person": "largest"},
    "odd characters in names": lambda p: {
        "photo": image(p / "мой 写真 'x' #1 %d.png"),
        "video": str(write_keypoints(p / "a [1] & b;c é" / "keypoints.npz")),
        "output": str(p / "out – 100% $HOME *"),
    },
    "a photo of 16 bits": lambda p: {"photo": image(p / "a.png", "I;16")},
    "a photo in CMYK": lambda p: {"photo": image(p / "a.jpg", "CMYK")},
    "a photo of one pixel": lambda p: {"photo": image(p / "a.png", size=(1, 1))},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_input_works(tmp_path, checkpoint, case, models, dwpose, name):
    """With one step: what matters is what comes in and out."""
    changes = {"dwpose_models": dwpose, "num_inference_steps": 1, **ODD[name](tmp_path)}
    settings = clip_settings(tmp_path, checkpoint, case, **changes).resolve()
    facts = make_clip(settings, settings.read_inputs(), models)
    frames = {"one frame": 1, "a sound track without sound": 2, "a 4K frame": 1}.get(name, FRAMES)
    if name == "a variable frame rate":  # 4 frames in 0.9 s, evenly spread over that time
        assert facts["num_frames"] / facts["driver"]["fps"] == pytest.approx(0.9, abs=0.3)
        return
    assert facts["num_frames"] == len(frames_of(settings.output)) == frames
    with av.open(str(Path(settings.output, "animation.mp4"))) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


WRITES = [
    "animation.clip.flow.write_png",
    "animation.skeletons.extraction.write_png",
    "animation.clip.flow.np.save",
    "animation.clip.state.write_json",
    "animation.clip.state.write_state_dict",
    "animation.clip.state.write_png",
    "animation.media.writing.write_png",
    "animation.media.writing.write_mp4",
    "animation.clip.results.write_whole",
    "animation.report.write_json",
]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_no_work(tmp_path, checkpoint, case, models, monkeypatch, capsys):
    """Each kind of file fails in turn, in one output folder; then the same command ends well."""
    settings = clip_settings(tmp_path, checkpoint, case)

    def make():
        resolved = settings.resolve()
        make_clip(resolved, resolved.read_inputs(), models)

    handler = signal.getsignal(signal.SIGTERM)
    for place in WRITES:
        with monkeypatch.context() as patch:
            patch.setattr(place, full_disk)
            with pytest.raises(SystemExit) as ended:
                cli.run(make)
        told = capsys.readouterr().err
        assert ended.value.code == 1, place
        assert told.strip().endswith("error: somewhere: No space left on device"), place
        left = [path for path in Path(settings.output).rglob("*") if "partial" in path.name]
        assert left == [], place
    make()
    signal.signal(signal.SIGTERM, handler)
    whole = replace(settings, output=str(tmp_path / "whole")).resolve()
    make_clip(whole, whole.read_inputs(), models)
    assert np.array_equal(frames_of(settings.output), frames_of(whole.output))
