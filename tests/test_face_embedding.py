"""The face embedding: which face, in which channel order, and what happens without one."""

import numpy as np
import pytest
from PIL import Image

from animation.errors import InputError
from animation.face.detection import find_face_models
from animation.face.embedding import embed_face, load_face_embedding
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
