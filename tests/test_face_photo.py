"""A face that is taken from another picture than the photo, which hides it; by the shipped networks."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from animation.clip.flow import Models, make_clip
from animation.clip.request import request_key
from animation.clip.settings import EMBEDDING_FILE, ClipSettings
from animation.errors import InputError
from animation.face.embedding import embed_face
from animation.face.settings import FaceOptimizationSettings
from animation.media.images import load_photo
from animation.run import animate, choose_channel_order
from animation.settings import InferenceSettings
from animation.weights.layout import fill_in
from puppets.writing import Format, write_case
from tests.test_shipped_cases import small_set

NUM_FRAMES = 2


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Of a face in shadow, the third way of hiding."""
    form = Format(width=128, height=128, num_frames=NUM_FRAMES)
    return write_case(tmp_path_factory.mktemp("hidden") / "case-1", 2, form, "hidden")


def settings(hidden, output, cls=InferenceSettings, **changes):
    return fill_in(
        cls(
            validation_image=str(hidden / "reference.png"),
            validation_control_folder=str(hidden / "poses"),
            output_dir=str(output),
            num_inference_steps=1,
            **{"face_photo": str(hidden / "face.png"), "no_gif": True, **changes},
        ),
        small_set(),
    )


def embedded(run, picture):
    return embed_face(load_photo(picture), run.face_models, choose_channel_order(run), dwpose_folder=run.dwpose_models)


def frames(output):
    return np.stack([np.asarray(Image.open(path)) for path in sorted((output / "animated_images").iterdir())])


def test_the_frames_are_those_of_its_embedding(hidden, tmp_path):
    runs = {name: settings(hidden, tmp_path / name) for name in ("face_photo", "vector", "photo")}
    np.save(tmp_path / "face.npy", embedded(runs["vector"], hidden / "face.png"))
    runs["vector"] = replace(runs["vector"], face_photo=None, face_embedding=str(tmp_path / "face.npy"))
    runs["photo"] = replace(runs["photo"], face_photo=None)  # a control
    for run in runs.values():
        animate(run, run.read_inputs())
    assert np.array_equal(frames(tmp_path / "face_photo"), frames(tmp_path / "vector"))
    assert not np.array_equal(frames(tmp_path / "face_photo"), frames(tmp_path / "photo"))
    assert str(hidden / "face.png") in (tmp_path / "face_photo" / "run.json").read_text()


def test_faces_are_optimised_towards_it(hidden, tmp_path):
    run = settings(hidden, tmp_path, FaceOptimizationSettings, end_refine_step=0)
    drawn_towards, alone = run.read_inputs().photo_face, replace(run, face_photo=None).read_inputs().photo_face
    assert np.mean(drawn_towards) > 1.3 * np.mean(alone)
    both = replace(run, validation_image_mask=str(hidden / "faces" / "frame_0.png"))
    with pytest.raises(InputError, match="name different faces"):
        both.read_inputs()


def test_without_a_face_it_is_told(hidden, tmp_path):
    empty = tmp_path / "empty.png"
    Image.new("RGB", (128, 128), "white").save(empty)
    run = settings(hidden, tmp_path / "out", face_photo=str(empty))
    with pytest.raises(InputError, match="--face_photo: no face was found in it"):
        animate(run, run.read_inputs())
    run = settings(hidden, tmp_path / "out", FaceOptimizationSettings, face_photo=str(empty), end_refine_step=0)
    with pytest.raises(InputError, match=r"--face_photo .*empty\.png: no face was found in it"):
        run.read_inputs()
    with pytest.raises(InputError, match=r"nowhere\.png"):
        replace(run, face_photo=str(tmp_path / "nowhere.png")).read_inputs()


@pytest.mark.slow
def test_a_clip_takes_it_too(hidden, tmp_path):
    clip = ClipSettings(
        photo=str(hidden / "reference.png"),
        video=str(hidden / "poses"),
        output=str(tmp_path / "out"),
        face_photo=str(hidden / "face.png"),
        num_inference_steps=1,
    ).resolve(small_set())
    make_clip(clip, clip.read_inputs(), Models())
    kept = np.load(clip.intermediate / EMBEDDING_FILE)
    assert np.array_equal(kept, embedded(clip, hidden / "face.png"))
    assert not np.array_equal(kept, embedded(clip, hidden / "reference.png"))
    asked = request_key(clip, clip.read_inputs())
    without = replace(clip, face_photo=None)
    assert request_key(without, without.read_inputs()) != asked
    (hidden / "face.png").touch()
    assert request_key(clip, clip.read_inputs()) != asked
