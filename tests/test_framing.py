"""The photo on its canvas: never silently distorted, and the padding gone from the result."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw

from animation.errors import InputError
from animation.media.framing import FITS, frame_photo
from animation.media.images import load_photo

PHOTOS = [(512, 512), (576, 1024), (300, 400), (1920, 1080), (333, 777), (1001, 64), (17, 2000), (4096, 4095), (3, 2)]
SIZES = ["512x512", "576x1024", "1024x576", "64x128", "auto"]


def disc(size, radius):
    """A white disc in the middle of a dark photo."""
    image = Image.new("RGB", size, (40, 60, 80))
    x, y = size[0] / 2, size[1] / 2
    ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], "white")
    return image


def roundness(image):
    """Width over height of what is white."""
    white = np.asarray(image.convert("L")) > 150
    return np.ptp(np.flatnonzero(white.any(0))) / np.ptp(np.flatnonzero(white.any(1)))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("photo_size", PHOTOS)
def test_every_framing_is_exact_and_even(photo_size, size, fit):
    framing = frame_photo(photo_size, size, fit)
    left, top, right, bottom = framing.box
    assert 0 <= left < right <= framing.width
    assert 0 <= top < bottom <= framing.height
    assert [side % 2 for side in framing.output_size] == [0, 0]
    s_left, s_top, s_right, s_bottom = framing.source
    assert 0 <= s_left < s_right <= photo_size[0] + 1e-6
    assert 0 <= s_top < s_bottom <= photo_size[1] + 1e-6
    stretch = ((right - left) / (s_right - s_left)) / ((bottom - top) / (s_bottom - s_top))
    assert (stretch == pytest.approx(1, rel=1e-9)) == (
        fit != "stretch" or framing.width / framing.height == pytest.approx(photo_size[0] / photo_size[1], rel=1e-9)
    )
    if fit == "crop":
        assert framing.output_size == (framing.width, framing.height)
    if fit == "pad" and min(framing.output_size) > 2:  # all of it, but for rounding to an even size
        assert (s_right - s_left) * (s_bottom - s_top) >= prod(photo_size) * (1 - 2 / min(framing.output_size))
    if prod(photo_size) < 10**6:
        assert framing.apply(Image.new("RGB", photo_size)).size == (framing.width, framing.height)


def prod(size):
    return size[0] * size[1]


@pytest.mark.parametrize(("fit", "expected"), [("crop", 1), ("pad", 1), ("stretch", 1.5)])
def test_a_disc_stays_a_disc_unless_it_is_stretched(fit, expected):
    photo = disc((400, 600), 150)
    assert roundness(frame_photo(photo.size, "512x512", fit).apply(photo)) == pytest.approx(expected, rel=0.02)


def test_padding_has_the_colour_of_the_edges_and_is_cut_off_again():
    photo = disc((400, 600), 100)
    framing = frame_photo(photo.size, "512x512", "pad")
    canvas = np.asarray(framing.apply(photo))
    left, top, right, bottom = framing.box
    assert (left, top, right, bottom) == (85, 0, 427, 512)
    outside = np.concatenate([canvas[:, :left], canvas[:, right:]], axis=1)
    assert (outside == (40, 60, 80)).all()
    assert (np.asarray(framing.apply(photo, (0, 0, 0)))[:, :left] == 0).all()
    frames = np.stack([canvas, canvas // 2])
    np.testing.assert_array_equal(framing.crop(frames), frames[:, top:bottom, left:right])
    assert framing.output_size == (342, 512)
    with pytest.raises(ValueError, match="on a canvas of"):
        framing.crop(frames[:, :100])


def test_nothing_is_resampled_twice():
    """A photo of the canvas's own size comes out as it went in."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 64, 3), dtype=np.uint8))
    for fit in FITS:
        framing = frame_photo(photo.size, "64x128", fit)
        np.testing.assert_array_equal(np.asarray(framing.apply(photo)), np.asarray(photo))
        assert framing.crop(np.asarray(photo)[None]).shape == (1, 128, 64, 3)


def test_a_crop_keeps_heads():
    top = frame_photo((400, 800), "512x512").source[1]
    assert top == 100  # a quarter of the 400 that go
    assert frame_photo((800, 400), "512x512").source == (200, 0, 600, 400)


def test_masks_are_framed_alike_and_other_shapes_refused():
    framing = frame_photo((400, 600), "512x512", "pad")
    photo, small = disc((400, 600), 100), disc((200, 300), 50)
    difference = np.abs(np.asarray(framing.apply(photo)).astype(int) - np.asarray(framing.apply(small)))
    assert difference.mean() < 1
    with pytest.raises(InputError, match="of the shape of the photo"):
        framing.apply(disc((300, 300), 50))


def test_the_size_nearest_the_photos_shape():
    nearest = {
        (1000, 1000): (512, 512),
        (1080, 1920): (576, 1024),
        (4000, 3000): (512, 512),
        (3000, 2000): (1024, 576),
        (2000, 3000): (576, 1024),
    }
    for photo_size, size in nearest.items():
        framing = frame_photo(photo_size, "auto")
        assert (framing.width, framing.height) == size


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("512", "not understood"),
        ("", "not understood"),
        ("axb", "not understood"),
        ("-64x64", "not understood"),
        ("٥x٥", "not understood"),
        ("0x64", "not a multiple of 64"),
        ("500x512", "the nearest valid width is 448 or 512"),
        ("512x500", "the nearest valid height is 448 or 512"),
        ("8192x64", "above 4096"),
    ],
)
def test_bad_sizes(size, message):
    with pytest.raises(InputError, match=message):
        frame_photo((10, 10), size)


def test_good_sizes_and_bad_fits():
    framings = [frame_photo((10, 10), size) for size in ("512x512", "576X1024", " 64 × 128 ")]
    assert [(framing.width, framing.height) for framing in framings] == [(512, 512), (576, 1024), (64, 128)]
    with pytest.raises(InputError, match="use crop, pad, stretch"):
        frame_photo((10, 10), "64x64", "cover")


def test_what_happens_to_the_photo_is_said(caplog):
    caplog.set_level(logging.INFO, "animation")
    for fit, message in (
        ("crop", "33 % of it cut off"),
        ("pad", "33 % of the picture is padding"),
        ("stretch", "stretched to 150 % of its width over height"),
    ):
        caplog.clear()
        frame_photo((400, 600), "512x512", fit)
        assert message in caplog.text
    caplog.clear()
    frame_photo((512, 512), "512x512", "stretch")
    assert not caplog.text


def test_a_turned_photo_is_framed_upright(tmp_path):
    image = Image.new("RGB", (200, 100), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    framing = frame_photo(load_photo(tmp_path / "turned.jpg").size)
    assert (framing.width, framing.height) == (576, 1024)


def test_a_crop_moves_to_a_face_and_its_shoulders():
    wide = frame_photo((900, 300), "512x512")
    assert wide.source == (300, 0, 600, 300)
    within = wide.keeping((440, 100, 480, 160))
    assert (within.source, within.face) == (wide.source, pytest.approx((160 / 300, 130 / 300)))
    right = wide.keeping((700, 100, 740, 160))
    assert right.source == (480, 0, 780, 300)  # up to a face's width beside it
    assert right.face == pytest.approx((240 / 300, 130 / 300))
    assert wide.keeping((5, 100, 45, 160)).source == (0, 0, 300, 300)  # not beyond the photo
    assert wide.keeping((300, 0, 700, 300)).source == (350, 0, 650, 300)  # a face too wide: its middle
    tall = frame_photo((300, 900), "512x512").keeping((100, 20, 160, 100))
    assert tall.source == (0, 0, 300, 300)  # with the hair
    padded = frame_photo((900, 300), "512x512", "pad")
    assert padded.keeping((700, 100, 740, 160)).source == padded.source
    assert padded.keeping((700, 100, 740, 160)).face == pytest.approx(
        (720 / 900, (170 + 130 / 300 * 170) / 512), abs=5e-3
    )
