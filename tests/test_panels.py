"""A result to look at: every panel in its place, every number where it belongs."""

import av
import numpy as np
import pytest
from PIL import Image

from animation.media import panels as showing
from animation.media.panels import GONE, LINE, draw_contact_sheet, plot_csim, write_side_by_side
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
    driver = (flat(COLOURS["driver"], (128, 64)) // (i + 1) for i in range(3))
    skeletons = [Image.fromarray(flat(COLOURS["skeleton"]))] * 3
    result = [flat(COLOURS["result"]) // (i + 1) for i in range(3)]
    sound = Sound(np.zeros((1, RATE), np.int16))
    write_side_by_side(path, Image.fromarray(flat(COLOURS["photo"])), driver, skeletons, result, 8, sound)
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
    photo = Image.fromarray(flat(COLOURS["photo"]))
    write_side_by_side(tmp_path / "a.mp4", photo, None, None, [flat((9, 9, 9))], 7)
    assert read(tmp_path / "a.mp4")[0].shape == (1, 512 + showing.STRIP, 512, 3)
    with pytest.raises(ValueError, match="shorter"):
        write_side_by_side(tmp_path / "b.mp4", photo, [flat((9, 9, 9))] * 2, None, [flat((9, 9, 9))], 7)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def column(image, frame, count):
    """The rows of the plot's line in a frame's column, as similarities of an axis from 0 to 1."""
    left, top, right, bottom = showing.MARGINS
    x = left + (showing.PLOT_SIZE[0] - right - left) * frame / (count - 1)
    pixels = np.asarray(image)[:, round(x)]
    rows = np.flatnonzero((pixels == LINE).all(-1))
    height = showing.PLOT_SIZE[1] - bottom - top
    return 1 - (rows.mean() - top) / height if len(rows) else None, bool((pixels == GONE).all(-1).any())


def test_the_plot_shows_the_numbers():
    values = [0.9, 0.8, 0.5, None, 0.2, float("nan"), 0.7, 0.7, 0.7]
    image = plot_csim(values)
    assert image.size == showing.PLOT_SIZE
    for frame, value in enumerate(values[1:-1], 1):
        found, gone = column(image, frame, len(values))
        if value is None or value != value:
            assert gone
            assert found is None
        elif frame != 1:  # where the line bends its middle is not the point
            assert found == pytest.approx(value, abs=0.03)
    assert column(plot_csim([0.5] * 4 + [0.9] * 5), 4, 9)[0] != pytest.approx(0.5, abs=0.1)  # the control


def test_the_figures_of_the_plot():
    figures = showing._figures
    assert figures([0.5, 0.7], {0: 0.5, 1: 0.7}) == "mean 0.600, least 0.500 in frame 0"
    assert figures([None, 0.7], {1: 0.7}).endswith("no face found in 1 of 2 frames")
    assert figures([None] * 3, {}) == "no face found in any of 3 frames"


@pytest.mark.parametrize("values", [[0.5], [None], [-0.9, 0.3], [0.4] * 5000, [None, 0.4, None]])
def test_plots_of_any_length(values):
    assert plot_csim(values).size == showing.PLOT_SIZE


def test_a_plot_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no frames"):
        plot_csim([])


def test_ticks():
    for count in (1, 2, 10, 11, 20, 21, 99, 450, 10**6):
        step = showing._tick_step(count)
        assert -(-count // step) <= showing.MOST_TICKS
    assert [showing._tick_step(count) for count in (10, 11, 21, 51, 450)] == [1, 2, 5, 10, 50]


def test_the_contact_sheet():
    frames = [Image.fromarray(flat(COLOURS["result"]))] * 3
    photo = Image.fromarray(flat(COLOURS["photo"]))
    with_driver = draw_contact_sheet("case", photo, frames, frames, frames)
    assert draw_contact_sheet("case", photo, None, None, frames).height < with_driver.height
