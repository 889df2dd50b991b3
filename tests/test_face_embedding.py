"""The face embedding: which face, in which channel order, and what happens without one."""

import numpy as np
import pytest
from insightface.app import FaceAnalysis
from insightface.utils import face_align
from PIL import Image

from animation.errors import InputError
from animation.face.detection import find_face_models, five_points
from animation.face.embedding import embed_face, load_face_embedding
from DWPose.wholebody import Wholebody
from tests import pose_models
from tests.face_models import write_face_models


@pytest.fixture
def photo():
    """640×640 so that the detector's pixels are the photo's: red left, blue right, a shade of green over all."""
    pixels = np.full((640, 640, 3), (200, 60, 0), np.uint8)
    pixels[:, 320:] = (0, 60, 250)
    return Image.fromarray(pixels)


def test_the_largest_face_is_embedded(tmp_path, photo, caplog):
    left, right = (160, 320, 60), (480, 320, 100)
    small, large, both = (
        embed_face(photo, write_face_models(tmp_path / name, centres), "rgb")
        for name, centres in (("a", [left]), ("b", [right]), ("c", [left, right]))
    )
    assert small.shape == (512,)
    assert small.dtype == np.float32
    assert not np.allclose(small, large)
    np.testing.assert_allclose(both, large, rtol=1e-5)


def test_which_of_several_faces_can_be_set(tmp_path, photo, caplog):
    caplog.set_level("INFO")
    left, right = (160, 320, 60), (480, 320, 100)
    both = write_face_models(tmp_path / "both", [right, left])
    for number, centre in ((0, left), (1, right)):
        alone = embed_face(photo, write_face_models(tmp_path / str(number), [centre]), "rgb")
        np.testing.assert_allclose(embed_face(photo, both, "rgb", face_number=number), alone, rtol=1e-5)
        assert (
            f"2 faces found in the photo: number {number} from the left is taken; --face takes another" in caplog.text
        )
    assert "the largest" not in caplog.text
    embed_face(photo, both, "rgb")
    assert "number 1 from the left is taken, the largest" in caplog.text
    with pytest.raises(InputError, match=r"--face 2: 2 faces found in the photo, .* give at most 1"):
        embed_face(photo, both, "rgb", face_number=2)


def test_the_same_as_insightface_itself(tmp_path, photo):
    """Detection, alignment and embedding are insightface's own, not ours."""
    folder = write_face_models(tmp_path, [(300, 280, 90)])
    analysis = FaceAnalysis(str(folder), allowed_modules=["detection", "recognition"])
    analysis.prepare(ctx_id=0, det_size=(640, 640))
    (face,) = analysis.get(np.asarray(photo))
    np.testing.assert_array_equal(embed_face(photo, folder, "rgb"), face.embedding)


def test_five_points_of_68():
    points = np.stack([np.arange(68.0), -np.arange(68.0)], axis=1)
    np.testing.assert_array_equal(five_points(points)[:, 0], [38.5, 44.5, 30, 48, 54])


@pytest.mark.parametrize("score", [pose_models.SURE, 0.2])
def test_a_face_that_only_dwpose_sees(tmp_path, caplog, monkeypatch, score):
    """A red patch is a person whose face points lie on a known ellipse; those of low scores are no face."""
    pixels = np.zeros((640, 640, 3), np.uint8) + np.arange(640, dtype=np.uint8)[:, None, None] // 4
    pixels[320:352, 320:352] = (255, 0, 0)
    photo = Image.fromarray(pixels)
    caplog.set_level("INFO")
    monkeypatch.setattr(pose_models, "SURE", score)
    pose_models.write_models(tmp_path / "DWPose")
    blind = write_face_models(tmp_path / "antelopev2", [])
    embedding = embed_face(photo, blind, "rgb", dwpose_folder=tmp_path / "DWPose")
    assert embedding.any() == (score > 0.3)
    assert ("found by DWPose's face points" in caplog.text) == (score > 0.3)
    assert ("no face found" in caplog.text) == (score < 0.3)
    if score > 0.3:
        found = Wholebody(tmp_path / "DWPose" / "yolox_l.onnx", tmp_path / "DWPose" / "dw-ll_ucoco_384.onnx")
        five = five_points(found(np.asarray(photo)).keypoints[0, 24:92]).astype(np.float32)
        aligned = face_align.norm_crop(np.asarray(photo), five, 112)
        expected = FaceAnalysis(str(blind), allowed_modules=["detection", "recognition"]).models["recognition"]
        np.testing.assert_array_equal(embedding, expected.get_feat(aligned).flatten())


def test_without_dwpose_the_warning_says_so(tmp_path, photo, caplog):
    embed_face(photo, write_face_models(tmp_path, []), "rgb", dwpose_folder=tmp_path / "nowhere")
    assert "DWPose's networks are not there to look too" in caplog.text


def test_channel_order(tmp_path, photo):
    """Handing over RGB for a photo is handing over BGR for the photo with red and blue exchanged."""
    folder = write_face_models(tmp_path, [(160, 320, 60)])
    exchanged = Image.fromarray(np.ascontiguousarray(np.asarray(photo)[..., ::-1]))
    np.testing.assert_array_equal(embed_face(photo, folder, "rgb"), embed_face(exchanged, folder, "bgr"))
    assert not np.allclose(embed_face(photo, folder, "rgb"), embed_face(photo, folder, "bgr"))


def test_no_face_is_a_warning_and_zeros(tmp_path, photo, caplog):
    embedding = embed_face(photo, write_face_models(tmp_path, []), "rgb")
    assert embedding.shape == (512,)
    assert not embedding.any()
    assert "no face found" in caplog.text


def test_flat_nested_missing_and_damaged_models(tmp_path, photo):
    folder = tmp_path / "models" / "antelopev2"
    with pytest.raises(InputError, match=r"not there; download the folder antelopev2"):
        find_face_models(folder)
    nested = write_face_models(folder / "antelopev2")
    assert find_face_models(folder) == find_face_models(nested) == nested
    (nested / "glintr100.onnx").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be loaded"):
        embed_face(photo, folder, "rgb")


def test_stored_embeddings(tmp_path):
    path = tmp_path / "face.npy"
    with pytest.raises(InputError, match="no such face embedding"):
        load_face_embedding(path)
    vector = np.arange(512, dtype=np.float64)
    for good in (vector, vector[None]):
        np.save(path, good)
        assert load_face_embedding(path).dtype == np.float32
        np.testing.assert_array_equal(load_face_embedding(path), vector)
    for bad, reason in (
        (vector[:511], r"shape \(511,\)"),
        (vector.reshape(2, 256), r"shape \(2, 256\)"),
        (np.where(vector == 3, np.nan, vector), "not finite"),
        (np.array(["a"] * 512), "not finite numbers"),
    ):
        np.save(path, bad)
        with pytest.raises(InputError, match=reason):
            load_face_embedding(path)
    np.save(path, np.array([{}] * 512, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"not a \.npy array"):
        load_face_embedding(path)
    path.write_text("text")
    with pytest.raises(InputError, match=r"not a \.npy array"):
        load_face_embedding(path)


@pytest.mark.parametrize("shape", [(2**39,), (2**62, 2**62), (-1,), (512,)])
def test_stored_embeddings_that_declare_what_is_not_there(tmp_path, shape):
    path = tmp_path / "face.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
        file.write(bytes(64))
    with pytest.raises(InputError, match=r"face\.npy: not a \.npy array|face\.npy: an embedding of shape"):
        load_face_embedding(path)


def test_every_damage_of_a_stored_embedding_is_told(tmp_path):
    path = tmp_path / "face.npy"
    np.save(path, np.ones(512))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(128)] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, len(whole))] if rng.random() < 0.3 else damaged)
        try:
            assert load_face_embedding(path).shape == (512,)
        except InputError as error:
            assert str(path) in str(error)
