"""Memory, files and threads stay as they are; the long part: python -m tests.robustness.soak."""

import subprocess
import sys
from pathlib import Path

import pytest

from animation.media.sound import RATE, load_sound
from tests.robustness.soak import make_clips, slope
from tests.test_sound import beeps, write_driver

ROOT = Path(__file__).parents[2]
FRAME = 128 * 128 * 3  # bytes


def growth(code):
    """How many bytes more a frame 900 frames take at most than 300, in a process of its own."""
    head = "import sys, tempfile; from pathlib import Path; import numpy as np\n"
    head += "from tests.robustness.soak import *\nfolder = Path(tempfile.mkdtemp())\n"
    tail = "\nmost = [peak(lambda: work(count)) for count in (300, 300, 900)]\nprint((most[2] - most[1]) / 600)"
    ended = subprocess.run([sys.executable, "-c", head + code + tail], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return float(ended.stdout)


@pytest.mark.slow
@pytest.mark.long
def test_writing_holds_no_frames():
    assert growth("def work(count): write_frames(folder, count, png=True, gif=True, mp4=True)") < FRAME / 10


@pytest.mark.slow
@pytest.mark.long
def test_a_list_of_frames_is_noticed():
    """The control of the measurement."""
    code = "def work(count): return [np.full((128, 128, 3), number % 256, np.uint8) for number in range(count)]"
    assert growth(code) > FRAME / 2


@pytest.mark.slow
@pytest.mark.long
def test_clips_in_one_process_leave_nothing_open(tmp_path):
    held = list(make_clips(tmp_path, 12))
    assert held[-1].files <= held[3].files and held[-1].threads <= held[3].threads
    assert slope([each.memory / 2**20 for each in held]) < 2  # MB a clip, which torch's allocator makes tremble


def test_a_repeated_sound_is_held_once(tmp_path):
    driver = write_driver(tmp_path / "driver.mp4", [], beeps([0.2], 1.0))
    once, often = load_sound(driver, 0, 1.0), load_sound(driver, 0, 1.0, repeats=1000)
    assert often.samples.nbytes == once.samples.nbytes
    assert often.seconds == pytest.approx(1000 * once.seconds)
    third = often.part(2 * RATE, 3 * RATE)
    assert (third == once.samples).all() and third.any()
    assert not often.part(1000 * RATE, 1001 * RATE).any()
    across = often.part(RATE // 2, 5 * RATE // 2)
    assert (across[:, RATE // 2 : 3 * RATE // 2] == once.samples).all()
