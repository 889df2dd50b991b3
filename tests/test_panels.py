"""A result to look at: every panel in its place, every number where it belongs."""

import av
import numpy as np
import pytest
from PIL import Image

from animation.media import panels as showing
from animation.media.panels import (
    SheetBlock,
    describe_likeness,
    draw_contact_sheet,
    panel,
    pick_moments,
    plot_likeness,
    text_strip,
    write_panels,
)
from animation.media.sound import RATE, Sound

COLOURS = {"photo": (200, 40, 40), "driver": (40, 200, 40), "skeleton": (40, 40, 200), "result": (200, 200, 40)}


def flat(colour, size=(64, 128)):
    return np.full((size[1], size[0], 3), colour, np.uint8)


def read(path):
    with av.open(str(path)) as container:
        kinds = sorted(stream.type for stream in container.streams)
        rate = container.streams.video[0].average_rate
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), rate, kinds


def test_all_panels_in_their_order(tmp_path):
    path = tmp_path / "new" / "side_by_side.mp4"
    panels = {
        "photo": Image.fromarray(flat(COLOURS["photo"])),
        "driver": (flat(COLOURS["driver"], (128, 64)) // (i + 1) for i in range(3)),
        "skeleton": [Image.fromarray(flat(COLOURS["skeleton"]))] * 3,
        "result": [flat(COLOURS["result"]) // (i + 1) for i in range(3)],
    }
    write_panels(path, panels, 8, Sound(np.zeros((1, RATE), np.int16)))
    frames, rate, kinds = read(path)
    assert (frames.shape, rate, kinds) == ((3, 512 + showing.STRIP, 256 + 1024 + 256 + 256, 3), 8, ["audio", "video"])
    middles = dict(zip(COLOURS, (128, 256 + 512, 1280 + 128, 1536 + 128), strict=True))
    for number, frame in enumerate(frames):
        for name, x in middles.items():
            expected = np.array(COLOURS[name]) // (number + 1 if name in ("driver", "result") else 1)
            assert np.abs(frame[280, x].astype(int) - expected).max() < 12, name
        for x in (30, 256 + 30, 1280 + 30, 1536 + 30):
            assert frame[: showing.STRIP, x - 26 : x + 40].max() > 150  # a name
    assert [path.name for path in path.parent.iterdir()] == ["side_by_side.mp4"]


def test_panels_can_be_left_out_and_nothing_half_written_stays(tmp_path):
    photo, grey = Image.fromarray(flat(COLOURS["photo"])), flat((9, 9, 9))
    write_panels(tmp_path / "a.mp4", {"photo": photo, "result": [grey]}, 7, caption="a line below")
    (frame,) = read(tmp_path / "a.mp4")[0]
    assert frame.shape == (512 + 2 * showing.STRIP, 512, 3)
    assert frame[-showing.STRIP :].max() > 150
    with pytest.raises(ValueError, match="shorter"):
        write_panels(tmp_path / "b.mp4", {"photo": photo, "driver": [grey] * 2, "result": [grey]}, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_small_pictures_are_scaled_without_blocks():
    """A smooth ramp of 16 pixels stays one: neighbouring pixels of the panel hardly differ."""
    ramp = np.repeat(np.linspace(0, 240, 16).astype(np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    steps = np.abs(np.diff(panel(ramp)[256, :, 0].astype(int)))
    assert steps.max() <= 2
    blocky = np.asarray(Image.fromarray(ramp).resize((512, 512), Image.Resampling.NEAREST))
    assert np.abs(np.diff(blocky[256, :, 0].astype(int))).max() >= 16  # the control


def test_long_texts_are_made_to_fit():
    strip = text_strip("a long line, " * 6, 300)
    assert strip.shape == (showing.STRIP, 300, 3)
    assert strip[:, 8:292].max() > 60
    assert strip[:, 296:].max() == 0


def is_colour(pixels, colour):
    """Where a picture, (H, W, 3), has a colour, such as #1f63aa, give or take its anti-aliasing."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(np.asarray(pixels).astype(int) - wanted) < 12).all(-1)


def curve_of(image, count):
    """The middle of the plot's curve in each frame's column, as rows, and where the bands are."""
    pixels = np.asarray(image)
    frame = (pixels < 60).all(-1)  # the axes' box
    columns = np.flatnonzero(frame[showing.PLOT_SIZE[1] // 2 - 40 : showing.PLOT_SIZE[1] // 2 + 40].all(0))
    xs = columns[0] + (np.arange(count) + 0.5) * (columns[-1] - columns[0]) / count
    on = is_colour(pixels, showing.CURVE)
    rows = [np.flatnonzero(on[:, round(x)]) for x in xs]
    gone = [bool(is_colour(pixels, showing.NO_FACE)[:, round(x)].sum() > 100) for x in xs]
    return [row.mean() if len(row) else None for row in rows], gone


def test_the_plot_shows_the_numbers():
    values = [0.9, 0.9, 0.9, None, 0.2, 0.2, 0.2, float("nan"), 0.55, 0.55, 0.55]
    image = plot_likeness(values)
    assert image.size == showing.PLOT_SIZE
    rows, gone = curve_of(image, len(values))
    assert gone == [value is None or value != value for value in values]
    assert [row is None for row in rows] == gone
    high, low, middle = rows[1], rows[5], rows[9]
    assert (low - middle) / (low - high) == pytest.approx(0.5, abs=0.03)
    other = curve_of(plot_likeness([0.9] * 5 + [0.2] * 6), 11)[0]
    assert (other[10] - other[8]) / (low - high) == pytest.approx(0, abs=0.03)  # the control


def test_the_plot_is_the_same_each_time():
    first, second = (plot_likeness([0.1, None, 0.5]) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_figures_of_the_plot():
    assert describe_likeness([0.5, 0.7]) == "likeness of the face: mean 0.600, least 0.500 in frame 0"
    assert describe_likeness([None, 0.7]).endswith("no face found in 1 of 2 frames")
    assert describe_likeness([None, float("nan")]).endswith("no face found in any of 2 frames")


@pytest.mark.parametrize("values", [[0.5], [None], [-0.9, 0.3], [0.4] * 5000, [None, 0.4, None]])
def test_plots_of_any_length(values):
    assert plot_likeness(values).size == showing.PLOT_SIZE


def places(sheet, colour):
    """Left edges of the runs of a colour in the middle row of its pictures."""
    found = (np.asarray(sheet) == colour).all(-1)
    row = found[np.flatnonzero(found.any(1))[showing.THUMB // 2]]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return [(left + right) / 2 for left, right in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("driver_size", [(64, 128), (256, 128)])
def test_results_stand_under_their_moments(driver_size):
    """Also where the driver lies and the result stands: the middles of both rows are the same."""
    moments = pick_moments(12)
    assert moments == [0, 2, 4, 7, 9, 11]
    block = SheetBlock(
        title="a photo moved like a driver",
        photo=Image.fromarray(flat(COLOURS["photo"])),
        times=[f"{moment / 12:.2f} s" for moment in moments],
        rows={
            "driver": [Image.fromarray(flat(COLOURS["driver"], driver_size))] * 6,
            "result": [Image.fromarray(flat(COLOURS["result"]))] * 6,
        },
    )
    sheet = draw_contact_sheet([block])
    assert len(places(sheet, COLOURS["driver"])) == 6
    np.testing.assert_allclose(places(sheet, COLOURS["driver"]), places(sheet, COLOURS["result"]), atol=1)
    assert len(places(sheet, COLOURS["photo"])) == 1
    assert draw_contact_sheet([block, block]).height == 2 * sheet.height


def test_moments_of_short_clips():
    assert [pick_moments(count) for count in (1, 2, 6)] == [[0], [0, 1], [0, 1, 2, 3, 4, 5]]
