"""The server over a long time: old uploads go, and memory is flat, clip after clip."""

import os
import sys
import time

import psutil
import pytest

from animation.app import runner as runner_module
from animation.app.settings import AppSettings
from tests.browser import ROOT

pytest.importorskip("gradio", reason="the page's package is not installed")
PHOTO, VIDEO = ROOT / "inference" / "case-2" / "reference.png", ROOT / "inference" / "driver.mp4"
ROUNDS, WARM = 20, 5
LARGEST_GROWTH = 30e6  # bytes, of the rounds after the first ones
# What stands for a run: it leaves a clip of a few frames.
RUN = """
import sys, pathlib, json, shutil
output, video = map(pathlib.Path, sys.argv[1:])
(output / "animated_images").mkdir(parents=True)
for number in range(3):
    shutil.copy(output.parent / "photo.png", output / "animated_images" / f"frame_{number}.png")
for name in ("animation.mp4", "side_by_side.mp4"):
    shutil.copy(video, output / name)
(output / "run.json").write_text(json.dumps({"num_frames": 3, "outputs": ["animation.mp4"]}))
"""


def test_old_uploads_are_removed(tmp_path):
    from animation.app.serve import remove_old

    (tmp_path / "outside").touch()
    for name in ("old/photo.png", "new/photo.png"):
        (tmp_path / "uploads" / name).parent.mkdir(parents=True)
        (tmp_path / "uploads" / name).touch()
    (tmp_path / "uploads" / "old" / "link").symlink_to(tmp_path / "outside")
    for path in (tmp_path / "uploads" / "old" / "photo.png", tmp_path / "outside"):
        os.utime(path, (1, 1))
    remove_old(tmp_path / "uploads", 1)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["outside", "uploads", "uploads/new", "uploads/new/photo.png", "uploads/old", "uploads/old/link"]


@pytest.mark.slow
@pytest.mark.long
def test_idle_memory_is_flat_after_twenty_clips(tmp_path, monkeypatch):
    from gradio_client import Client, handle_file

    from animation.app.serve import served

    def command_of(settings):
        return [sys.executable, "-c", RUN, settings.output, settings.video]

    monkeypatch.setattr(runner_module, "command_of", command_of)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # put back at the end
    settings = AppSettings(folder=str(tmp_path / "page"), port=0)
    with served(settings, [None]) as address:
        client = Client(address, verbose=False, download_files=str(tmp_path / "client"))
        used = []
        for number in range(ROUNDS):
            inputs = {"photo": handle_file(PHOTO), "driver": handle_file(VIDEO), "settings": {"seed": number}}
            _, _, run = client.predict(**inputs, api_name="/animate")
            assert run["num_frames"] == 3
            time.sleep(0.1)
            used.append(psutil.Process().memory_info().rss)
        client.close()
    assert len(list((tmp_path / "page" / "clips").iterdir())) == ROUNDS
    assert max(used[WARM:]) - used[WARM] < LARGEST_GROWTH, used
