"""Images in: order, orientation and every kind of bad input."""

import numpy as np
import pytest
from PIL import Image

from animation.errors import InputError
from animation.media.images import FrameFolder, check_size, list_frames, load_photo, open_rgb, warn_if_stretched


def save(path, size=(8, 6), colour="red", **options):
    Image.new("RGB", size, colour).save(path, **options)
    return path


def test_frames_come_in_numeric_order_whatever_the_digits(tmp_path, caplog):
    for name in ("frame_10.png", "frame_2.jpg", "frame_001.jpeg", "frame_0.PNG"):
        save(tmp_path / name)
    (tmp_path / "notes1.txt").touch()
    (tmp_path / ".frame_5.png").touch()
    with caplog.at_level("INFO", "animation"):
        names = [path.name for path in list_frames(tmp_path)]
    assert names == ["frame_0.PNG", "frame_001.jpeg", "frame_2.jpg", "frame_10.png"]
    assert "numbered 0 to 10, 7 numbers left out" in caplog.text


def test_only_gaps_and_other_starts_are_logged(tmp_path, caplog):
    save(tmp_path / "a1.png")
    with caplog.at_level("INFO", "animation"):
        list_frames(tmp_path)
        assert "numbered 1 to 1" in caplog.text
        caplog.clear()
        save(tmp_path / "a0.png")
        assert len(list_frames(tmp_path)) == 2
    assert not caplog.text


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list_frames(tmp_path / "none")
    with pytest.raises(InputError, match="no PNG or JPEG frames"):
        list_frames(tmp_path)
    save(tmp_path / "frame.png")
    with pytest.raises(InputError, match="has no number"):
        list_frames(tmp_path)
    (tmp_path / "frame.png").rename(tmp_path / "frame_1.png")
    save(tmp_path / "frame_01.jpg")
    with pytest.raises(InputError, match="same number"):
        list_frames(tmp_path)


def test_frame_folder_reads_rgb_lazily_and_checks_at_the_edge(tmp_path, caplog):
    save(tmp_path / "0.png", colour=(10, 20, 30))
    Image.new("L", (16, 12), 7).save(tmp_path / "1.png")
    folder = FrameFolder(tmp_path)
    assert (len(folder), folder.sizes) == (2, {(8, 6), (16, 12)})
    assert folder[0].getpixel((0, 0)) == (10, 20, 30)
    assert [frame.mode for frame in folder[0:5]] == ["RGB", "RGB"]
    assert len(FrameFolder(tmp_path, max_frames=1)) == 1
    with caplog.at_level("WARNING", "animation"):
        warn_if_stretched("poses", folder.sizes, (8 * 64, 6 * 64), "look")
        assert not caplog.text
        warn_if_stretched("poses", folder.sizes, (64, 64), "look")
    assert "poses of 8×6 (width × height) stretched to 64×64; look" in caplog.text
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(whole[:40])
    with pytest.raises(InputError, match=r"0\.png: not a readable image"):
        FrameFolder(tmp_path)
    with pytest.raises(InputError, match="max_frames 0"):
        FrameFolder(tmp_path, max_frames=0)


def test_photo_is_upright_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    path = save(tmp_path / "photo.jpg", exif=exif)
    assert load_photo(path).size == (6, 8)
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "photo.png")
    assert np.array_equal(np.asarray(load_photo(tmp_path / "photo.png"))[0, 0], (1, 2, 3))


def test_frames_are_upright_too_with_their_sizes(tmp_path):
    """As the photo, so that skeletons and frames of training lie the same way."""
    wide = np.zeros((6, 8, 3), np.uint8)
    wide[:, :4] = 255  # white on the left
    for orientation, size in ((1, (8, 6)), (3, (8, 6)), (6, (6, 8)), (8, (6, 8))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(wide).save(tmp_path / f"{orientation}.png", exif=exif)
        (tmp_path / f"folder_{orientation}").mkdir()
        (tmp_path / f"{orientation}.png").rename(tmp_path / f"folder_{orientation}" / "0.png")
        folder = FrameFolder(tmp_path / f"folder_{orientation}")
        assert folder.sizes == {size} == {folder[0].size}
        np.testing.assert_array_equal(folder[0], load_photo(folder.paths[0]))
    assert np.asarray(folder[0])[-1].min() == 255  # turned a quarter to the left: white below
    with pytest.raises(InputError, match="not a readable image"):
        open_rgb(tmp_path / "none.png")


def test_16_bit_grey_is_scaled_and_unknown_ranges_are_refused(tmp_path):
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(grey).save(tmp_path / "16.png")
    assert np.array_equal(np.asarray(load_photo(tmp_path / "16.png"))[..., 0], grey // 256)
    assert np.array_equal(np.asarray(FrameFolder(tmp_path)[0])[..., 0], grey // 256)
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "32.tiff")
    with pytest.raises(InputError, match="32-bit grey values"):
        load_photo(tmp_path / "32.tiff")


def test_a_huge_photo_is_reduced(tmp_path, caplog):
    with caplog.at_level("INFO", "animation"):
        assert load_photo(save(tmp_path / "large.png", (4096, 10))).size == (4096, 10)
        assert not caplog.text
        assert load_photo(save(tmp_path / "huge.png", (8192, 100))).size == (4096, 50)
    assert "reduced from 8192×100 pixels to 4096" in caplog.text


def test_bad_photos(tmp_path):
    with pytest.raises(InputError, match="no such photo"):
        load_photo(tmp_path / "none.png")
    with pytest.raises(InputError, match="no such photo"):
        load_photo(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InputError, match="not a readable image"):
        load_photo(tmp_path / "text.png")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "png", "webp"):
        frames[0].save(tmp_path / f"animated.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match="an animation of 2 frames"):
            load_photo(tmp_path / f"animated.{suffix}")


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(500, "448 or 512"), (63, "64"), (0, "64"), (-64, "64"), (65, "64 or 128"), (1000, "960 or 1024")],
)
def test_sizes_must_be_multiples_of_64(size, nearest):
    with pytest.raises(InputError, match=rf"width {size} .*nearest valid width is {nearest}$"):
        check_size(512, size)
    with pytest.raises(InputError, match=f"height {size}"):
        check_size(size, 512)
    check_size(576, 1024)
