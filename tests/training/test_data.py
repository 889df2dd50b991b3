"""Clips, the plan of samples, reading them, and the check of a data set."""

import itertools
import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from animation.errors import InputError
from animation.training.cache import WRITING_FOLDER, FrameCache
from animation.training.check import check_data
from animation.training.clips import Bucket, ClipError, choose_frames, parse_bucket, read_buckets, read_clip
from animation.training.dataset import ClipDataset, make_batch
from animation.training.plan import MicroBatches, SampleKey, SamplePlan
from animation.training.settings import TrainingSettings
from tests import synthetic
from tests.face_models import write_face_models


@pytest.fixture(scope="module")
def face_models(tmp_path_factory):
    return write_face_models(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def clips(tmp_path):
    return synthetic.write_clips(tmp_path / "data" / "rec", 3, (64, 64), 8)


def dataset(clips, face_models, tmp_path, **changes):
    values = {"seed": 5, "sample_n_frames": 3, "sample_stride": 2, "face_models": str(face_models), **changes}
    order = values.pop("channel_order", "bgr")
    settings = TrainingSettings(output_dir=str(tmp_path / "out"), **values)
    return ClipDataset(settings, [Bucket(64, 128, clips)], 2, order, latent_channels=4, latent_scale=8)


def test_every_choice_of_frames():
    rng = np.random.default_rng(0)
    for length, count, stride in itertools.product(range(1, 40), range(1, 9), range(1, 6)):
        if length < count:
            continue
        frames, reference = choose_frames(length, count, stride, rng)
        steps = set(np.diff(frames))
        assert len(frames) == count
        assert 0 <= frames[0] <= frames[-1] < length
        assert steps <= {min(stride, (length - 1) // (count - 1))} if count > 1 else not steps
        assert 0 <= reference < length
        assert (reference in frames) == (length == count)


def test_frames_without_a_skeleton_are_left_out(clips):
    (clips[0] / "poses" / "frame_3.png").unlink()
    (clips[0] / "faces" / "frame_5.png").unlink()
    clip = read_clip(clips[0])
    assert [path.name for path in clip.images] == [f"frame_{i}.png" for i in (0, 1, 2, 4, 5, 6, 7)]
    assert [path.name for path in clip.poses] == [path.name for path in clip.images]
    assert (clip.missing_poses, clip.missing_masks) == (1, 1)
    with pytest.raises(ClipError, match="7 frames with a skeleton, 8 images; 8 are needed"):
        read_clip(clips[0], 8)


def test_lists_and_buckets(clips, tmp_path):
    root = tmp_path / "data"
    (tmp_path / "full.txt").write_text("".join(f"{clip}\n" for clip in clips))
    (tmp_path / "moved.txt").write_text("/elsewhere/rec/00002\n\n# a comment\n")
    (root / "relative.txt").write_text("rec/00001\nrec/00003\n")
    lists = [(64, 64, tmp_path / "full.txt"), (64, 128, tmp_path / "moved.txt"), (128, 64, root / "relative.txt")]
    full, moved, relative = read_buckets(lists, root)
    assert full.clips == clips
    assert moved.clips == [clips[1]]
    assert relative.clips == [clips[0], clips[2]]
    (alone,) = read_buckets([], root)
    assert (str(alone), alone.clips) == ("512×512", clips)
    assert parse_bucket("320x448:a:b.txt") == (320, 448, "a:b.txt")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([(100, 64, "l.txt")], "width 100"),
        ([(64, 64, "none.txt")], "none.txt: cannot be read"),
        ([(64, 64, "empty.txt")], "lists no clip"),
        ([], "no data; give --rec_data_path"),
    ],
)
def test_bad_lists(tmp_path, monkeypatch, lists, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.txt").write_text("clip\n")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match=message):
        read_buckets(lists)


def test_the_plan_sees_every_clip_equally():
    plan = SamplePlan([5, 3], batch_size=2, seed=1)
    assert plan.steps_per_epoch == 5
    seen = {0: [], 1: []}
    for step in range(5 * plan.steps_per_epoch * 2):
        samples = plan.samples(step)
        assert len({key.bucket for key in samples}) == 1
        assert sorted(key.stratum for key in samples) == [0, 1]
        seen[samples[0].bucket].extend(key.clip for key in samples)
    for bucket, size in enumerate(plan.bucket_sizes):
        whole = seen[bucket][: len(seen[bucket]) // size * size]
        assert (np.bincount(whole) == len(whole) // size).all()
        rounds = {tuple(whole[start : start + size]) for start in range(0, len(whole), size)}
        assert len(rounds) > 1  # shuffled anew


def test_the_plan_depends_on_seed_and_step_alone():
    plan, again, other = (SamplePlan([7, 4], 4, seed) for seed in (1, 1, 2))
    assert plan.samples(123) == again.samples(123)
    assert [plan.samples(i) for i in range(9)] != [other.samples(i) for i in range(9)]
    repeated = SamplePlan([7, 4], 4, 1, repeat=True)
    assert repeated.samples(50) == plan.samples(0)


@pytest.mark.parametrize(("per_process", "processes"), [(8, 1), (1, 1), (4, 2), (1, 8), (2, 2)])
def test_every_split_computes_the_same_samples(per_process, processes):
    plan = SamplePlan([5, 6], 8, seed=0)
    for step in (0, 1, 17):
        shares = [list(MicroBatches(plan, step, step + 1, per_process, r, processes)) for r in range(processes)]
        assert all(len(batch) == per_process for share in shares for batch in share)
        found = sorted((key for share in shares for batch in share for key in batch), key=lambda key: key.slot)
        assert found == plan.samples(step)


def test_a_resumed_share_goes_on_where_it_stopped():
    plan = SamplePlan([5], 4, seed=0)
    whole = list(MicroBatches(plan, 0, 6, 2, 1, 2))
    assert list(MicroBatches(plan, 4, 6, 2, 1, 2)) == whole[4:]


def test_a_sample(clips, face_models, tmp_path):
    data = dataset(clips, face_models, tmp_path)
    key = SampleKey(step=3, slot=1, stratum=0, bucket=0, clip=1)
    sample, again = data[key], data[key]
    shapes = {name: tuple(tensor.shape) for name, tensor in sample.tensors.items()}
    assert shapes == {
        "reference": (3, 128, 64),
        "poses": (3, 3, 128, 64),
        "pixels": (3, 3, 128, 64),
        "face_masks": (3, 1, 128, 64),
        "face_embedding": (512,),
        "sigma": (),
        "dropout": (),
        "noise": (3, 4, 16, 8),
        "reference_noise": (3, 128, 64),
        "posterior_noise": (3, 4, 16, 8),
        "reference_posterior_noise": (4, 16, 8),
    }
    assert all(torch.equal(sample.tensors[name], again.tensors[name]) for name in shapes)
    other = data[SampleKey(step=3, slot=0, stratum=0, bucket=0, clip=1)]
    assert not torch.equal(sample.tensors["noise"], other.tensors["noise"])
    first = np.asarray(Image.open(sample.images[0]).resize((64, 128))).transpose(2, 0, 1)  # Pillow's default, bicubic
    assert np.array_equal(sample.tensors["pixels"][0], first)
    mask = Image.open(str(sample.images[0]).replace("images", "faces")).resize((64, 128))
    assert np.array_equal(sample.tensors["face_masks"][0, 0], np.asarray(mask))
    lanczos = dataset(clips, face_models, tmp_path, resample="lanczos")[key]
    assert not np.array_equal(lanczos.tensors["pixels"][0], first)
    batch = make_batch([sample, other], torch.device("cpu"))
    assert batch.pixels.shape == (2, 3, 3, 128, 64)
    assert (batch.pixels.min(), batch.pixels.max()) >= (-1, 0)
    assert (batch.face_masks.min(), batch.face_masks.max()) == (0, 1)


def test_photos_stand_for_references_alone(clips, face_models, tmp_path):
    """The photo of photos/ is shown, the face of the image is embedded, and all else is as without."""
    data, keys = dataset(clips, face_models, tmp_path), [SampleKey(step, 0, 0, 0, 0) for step in range(4)]
    before = [data[key].tensors for key in keys]
    (clips[0] / "photos").mkdir()
    for path in (clips[0] / "images").iterdir():
        Image.new("RGB", (64, 64), (9, 8, 7)).save(clips[0] / "photos" / path.name)
    after = [data[key].tensors for key in keys]
    grey = torch.tensor([9, 8, 7], dtype=torch.uint8)[:, None, None].expand(3, 128, 64)
    assert all(torch.equal(sample["reference"], grey) for sample in after)
    for sample, plain in zip(after, before, strict=True):
        assert not torch.equal(plain["reference"], grey)
        assert all(torch.equal(sample[name], plain[name]) for name in plain if name != "reference")
    assert before[0]["face_embedding"].any()


def test_rotated_images_are_read_upright(clips, face_models, tmp_path):
    """A photo that lies on its side, with a note how to turn it, is the same sample as the upright one."""
    data, key = dataset(clips, face_models, tmp_path), SampleKey(0, 0, 0, 0, 0)
    upright = data[key].tensors
    for folder in ("images", "poses", "faces"):
        for path in (clips[0] / folder).iterdir():
            exif = Image.Exif()
            exif[0x0112] = 6  # turn it clockwise to show it
            image = Image.open(path)
            image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    turned = data[key].tensors
    assert all(torch.equal(turned[name], upright[name]) for name in upright if name != "face_embedding")
    for path in (clips[0] / "images").iterdir():
        Image.open(path).save(path)  # a control: without the note
    assert not torch.equal(data[key].tensors["pixels"], upright["pixels"])


def test_check_data_measures_upright_images(clips):
    for path in (clips[0] / "images").iterdir():
        exif = Image.Exif()
        exif[0x0112] = 8
        Image.new("RGB", (32, 64)).save(path, exif=exif)
        Image.new("RGB", (64, 32)).save(clips[0] / "poses" / path.name)
    text = check_data([Bucket(128, 64, clips[:1])], 4, 0, 1)
    assert "sizes: 64×32 (8 frames)" in text
    assert "skeletons of another aspect ratio" not in text


def test_embeddings_are_computed_once(clips, face_models, tmp_path, monkeypatch):
    from animation.training import dataset as module

    calls, embed = [], module.embed_largest

    def count(*arguments):
        calls.append(arguments)
        return embed(*arguments)

    monkeypatch.setattr(module, "embed_largest", count)
    keys = [SampleKey(step, 0, 0, 0, 0) for step in range(30)]
    first = [dataset(clips, face_models, tmp_path)[key].tensors["face_embedding"] for key in keys]
    assert len(calls) <= 8  # frames of one clip
    computed = len(calls)
    second = [dataset(clips, face_models, tmp_path)[key].tensors["face_embedding"] for key in keys]
    assert len(calls) == computed
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].any()
    rgb = dataset(clips, face_models, tmp_path, channel_order="rgb")
    assert not torch.allclose(rgb[keys[0]].tensors["face_embedding"], first[0])


def test_the_cache_forgets_a_changed_image(clips, tmp_path):
    cache, image = FrameCache(tmp_path / "cache"), clips[0] / "images" / "frame_0.png"
    assert cache.read(image) is None
    cache.write(image, np.arange(3.0))
    assert cache.read(image).tolist() == [0, 1, 2]
    shutil.copy(clips[1] / "images" / "frame_4.png", image)
    assert cache.read(image) is None
    cache.write(image, np.arange(3.0))
    cache.path(image).write_bytes(b"cut")
    assert cache.read(image) is None
    assert {path.suffix for path in cache.path(image).parent.iterdir()} == {".npy"}


def test_two_processes_may_keep_the_same_image(clips, tmp_path, monkeypatch):
    cache, image, save = FrameCache(tmp_path / "cache"), clips[0] / "images" / "frame_0.png", np.save

    def save_while_another_does(path, array):
        save(path, array)
        with monkeypatch.context() as other:
            other.setattr("os.getpid", lambda: 1)
            other.setattr(np, "save", save)
            cache.write(image, array)

    monkeypatch.setattr(np, "save", save_while_another_does)
    cache.write(image, np.arange(3.0))
    assert cache.read(image).tolist() == [0, 1, 2]
    assert [path.name for path in cache.path(image).parent.iterdir()] == [cache.path(image).name]
    assert not list((cache.folder / WRITING_FOLDER).iterdir())


def test_what_a_dead_process_left_in_the_cache_is_removed(clips, tmp_path):
    cache, here = FrameCache(tmp_path / "cache"), platform.node()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left = {f"{here}+{ended.pid}+a.npy": False, f"{here}+words": False}
    left |= {f"{here}+{os.getpid()}+a.npy": True, f"other{here}+{ended.pid}+a.npy": True}  # at work, or who knows
    (cache.folder / WRITING_FOLDER).mkdir(parents=True)
    for name in left:
        (cache.folder / WRITING_FOLDER / name).touch()
    cache.write(clips[0] / "images" / "frame_0.png", np.arange(3.0))
    assert {name: (cache.folder / WRITING_FOLDER / name).exists() for name in left} == left


def test_an_unreadable_clip_is_replaced_and_told(clips, face_models, tmp_path):
    for path in (clips[1] / "images").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    data = dataset(clips, face_models, tmp_path)
    sample = data[SampleKey(0, 0, 0, 0, 1)]
    assert list(sample.bad_clips) == [str(clips[1])]
    assert "cannot be read" in sample.bad_clips[str(clips[1])]
    assert sample.images[0].parents[1] in (clips[0], clips[2])
    assert data[SampleKey(0, 0, 0, 0, 0)].bad_clips == {}
    only = dataset([clips[1]], face_models, tmp_path)[SampleKey(0, 0, 0, 0, 0)]
    assert only.tensors == {}
    assert list(only.bad_clips) == [str(clips[1])]


def test_check_data(clips, tmp_path):
    (clips[0] / "poses" / "frame_3.png").unlink()
    (clips[0] / "faces" / "frame_5.png").unlink()
    Image.new("L", (64, 64), 255).save(clips[0] / "faces" / "frame_6.png")
    Image.new("RGB", (64, 32)).save(clips[0] / "poses" / "frame_1.png")
    short = synthetic.write_clips(tmp_path / "short", 1, num_frames=2)
    cut = synthetic.write_clips(tmp_path / "cut", 1)
    (cut[0] / "images" / "frame_2.png").write_bytes((cut[0] / "images" / "frame_2.png").read_bytes()[:-30])
    buckets = [Bucket(64, 64, clips), Bucket(64, 128, [*clips[1:], *short, *cut, tmp_path / "gone"])]
    text = check_data(buckets, 4, 0.5, 2)
    for line in (
        "64×64 (width × height): 3 of 3 clips can be trained on",
        "  lengths: 7 to 8 frames, median 8, 23 in all",
        "  sizes: 64×64 (23 frames)",
        f"  frames without a skeleton, which are left out: 1 clips: {clips[0]} (1)",
        f"  frames without a face mask, whose face weighs no more than the rest: 1 clips: {clips[0]} (1)",
        "64×128 (width × height): 2 of 5 clips can be trained on",
        f"  images stretched to this size: 2 clips: {clips[1]} (64×64), {clips[2]} (64×64)",
    ):
        assert line in text.splitlines()
    assert f"white all over, as where no face was found; all of it weighs as a face does: 1 clips: {clips[0]}" in text
    assert f"skeletons of another aspect ratio than their images: 1 clips: {clips[0]} (1)" in text
    for clip, reason in (
        (short[0], "2 frames with a skeleton; 4 are needed"),
        (cut[0], "images/frame_2.png cannot"),
        (tmp_path / "gone", "images/ cannot be read"),
    ):
        assert f"{clip} ({reason}" in text
    with pytest.raises(InputError, match=r"3 of 8 clips cannot be used, more than the share of 0\.1"):
        check_data(buckets, 4, 0.1, 2)
