"""Clips in folders of random names, their queue, and their runs: cancelled, gone on with, failed, removed."""

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from animation.app import runner as runner_module
from animation.app.jobs import DONE, FAILED, NAME, RUNNING, STOPPED, WAITING, Jobs, Uploads
from animation.app.progress import NAMES, Progress, read_bar
from animation.app.runner import Runner, flags_of
from animation.app.settings import CHOSEN, Limits, chosen_settings
from animation.clip.settings import ClipSettings
from animation.errors import InputError
from animation.flags import parse
from tests.test_app_limits import png, write_video, write_zip
from tests.waiting import wait_until

LIMITS = Limits(bytes=1 << 20, pixels=1_000_000, seconds=5, frames=100)
# What stands for a run: it tells its stages, ends as its file says, and puts its state away where it is stopped.
RUN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
print("finding people: 100%|##########| 4/4 [00:01<00:00,  4.00frame/s]", file=sys.stderr, end="\\r")
begun = int((folder / "state").read_text()) if (folder / "state").exists() else 0
try:
    for step in range(begun, 4):
        bar = f"denoising:  {step * 25}%|##        | {step}/4 [00:01<01:30,  3.00s/window]"
        print(bar, file=sys.stderr, end="\\r", flush=True)
        while (folder.parent / "wait").exists():
            time.sleep(0.02)
except KeyboardInterrupt:
    (folder / "state").write_text(str(step))
    sys.exit(130)
print(file=sys.stderr)
if (folder.parent / "fail").exists():
    print(f"error: {folder.parent}/photo.png: --end 9 is wrong; give less", file=sys.stderr)
    sys.exit(2)
(folder / "begun").write_text(str(begun))
"""


@pytest.fixture
def uploads(tmp_path):
    """A photo and a driver under names that are not nice."""
    photo = tmp_path / "my $(photo).png"
    Image.new("RGB", (64, 96)).save(photo)
    return photo, write_video(tmp_path / "..;driver.MOV.mp4")


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "clips", LIMITS)


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.setattr(runner_module, "command_of", lambda settings: [sys.executable, "-c", RUN, settings.output])
    finished = []
    runner = Runner([None], 2, {}, finished.append)
    runner.finished = finished
    yield runner
    runner.close()


def made(jobs, uploads, *marks, **values):
    """A clip that is shown, with files that tell its run what to do."""
    job = jobs.make(Uploads(*uploads), values)
    jobs.add(job)
    for mark in marks:
        (job.folder / mark).touch()
    return job


def test_uploads_get_names_of_ours_in_a_folder_by_chance(jobs, uploads):
    first, second = (jobs.make(Uploads(*uploads), {"seed": 1}) for _ in range(2))
    assert first.name != second.name
    assert NAME.fullmatch(first.name)
    assert sorted(path.name for path in first.folder.iterdir()) == ["driver.mp4", "photo.png"]
    assert (first.folder / "photo.png").read_bytes() == uploads[0].read_bytes()
    assert first.folder.stat().st_mode & 0o077 == 0


def test_a_zip_of_skeletons_becomes_a_folder(jobs, uploads, tmp_path):
    path = write_zip(tmp_path / "poses.zip", [(f"frame_{number}.png", png()) for number in range(3)])
    job = jobs.make(Uploads(uploads[0], path), {})
    assert job.settings().video == str(job.folder / "driver")
    assert len(list((job.folder / "driver").iterdir())) == 3


def test_another_picture_of_the_face_comes_along(jobs, uploads):
    job = jobs.make(Uploads(*uploads, face_photo=uploads[0]), {})
    for found in (job, jobs.again(job)):
        assert found.settings().face_photo == str(found.folder / "face_photo.png")
        assert (found.folder / "face_photo.png").read_bytes() == uploads[0].read_bytes()
    assert jobs.make(Uploads(*uploads), {}).settings().face_photo is None
    with pytest.raises(InputError, match="the picture of the face is not a picture"):
        jobs.make(Uploads(*uploads, face_photo=uploads[1]), {})


@pytest.mark.parametrize(
    ("values", "problem"), [({"output": "/"}, "server's"), ({"nothing": 1}, "no setting"), ({"seed": "1"}, "type")]
)
def test_choices_that_make_no_sense_leave_no_folder(jobs, uploads, values, problem):
    with pytest.raises(InputError, match=problem):
        jobs.make(Uploads(*uploads), values)
    with pytest.raises(InputError, match="not a picture"):
        jobs.make(Uploads(uploads[1], uploads[1]), {})
    with pytest.raises(InputError, match="single picture"):
        jobs.make(Uploads(uploads[0], uploads[0]), {})
    with pytest.raises(InputError, match="no driver yet"):
        jobs.make(Uploads(uploads[0], None), {})
    assert list(jobs.folder.iterdir()) == []


def test_messages_tell_no_path_and_no_dashes(jobs, uploads):
    job = jobs.make(Uploads(*uploads), {"end": 0.0})
    with pytest.raises(InputError) as told:
        jobs.read(job)
    assert str(told.value) == "end 0 is not after start 0; give seconds, at most 86400"
    assert job.tell(f"{job.folder}/photo.png: --fit x") == "photo.png: fit x"


def test_a_clip_beyond_the_limits_is_refused(jobs, uploads):
    settings, inputs = jobs.read(jobs.make(Uploads(*uploads), {"loop": 5}))
    assert (settings.loop, inputs.driver.fps) == (5, 10)
    with pytest.raises(InputError, match=r"70 frames, 7\.0 s; at most are 5 s and 100 frames"):
        jobs.read(jobs.make(Uploads(*uploads), {"loop": 7}))


def test_settings_become_flags_that_are_read_as_the_same():
    values = {"preset": "draft", "seed": 5, "end": 1.5, "face_optimization": False, "gif": True, "widen_boxes": False}
    settings = chosen_settings(values)
    assert parse(ClipSettings, "", flags_of(settings)) == settings
    settings = ClipSettings(face_optimization=True, no_audio=True, photo="-x.png", person="2")
    assert parse(ClipSettings, "", flags_of(settings)) == settings
    assert flags_of(ClipSettings()) == []


def test_bars_become_stages_and_time():
    bar = "denoising:  40%|████▏     | 20/50 [01:45<01:48,  3.63s/window]"
    assert read_bar(bar) == Progress("Sampling", 20, 50, 108.0)
    assert read_bar("decoding:   0%|          | 0/24 [00:00<?, ?frame/s]") == Progress("Decoding", 0, 24, None)
    assert read_bar("side by side: 100%|███| 24/24 [00:00<00:00, 33.69frame/s]").stage == "Side by side"
    assert read_bar("finding people:  5%|▌  | 8/160 [1:00:03<20:15:00, 40.2s/frame]").seconds_left == 72900
    assert read_bar("written to out: animation.mp4") is None
    assert read_bar("loading:  40%|██  | 2/5 [00:01<00:01,  1.0it/s]") is None
    assert Progress("Sampling", 20, 50).share == 0.4
    assert {read_bar(bar).stage, "Starting"} < set(NAMES)


def test_a_clip_is_made_and_written_down(jobs, uploads, runner):
    job = made(jobs, uploads, seed=4)
    runner.add(job)
    wait_until(lambda: job.state == DONE)
    assert runner.finished == [job]
    runner.close()
    found = Jobs(jobs.folder, LIMITS).find(job.name)
    assert found == job
    assert found.values == {"seed": 4}


def test_clips_wait_for_their_turn(jobs, uploads, runner):
    first, second, third, fourth = (made(jobs, uploads, "wait") for _ in range(4))
    runner.add(first)
    wait_until(lambda: first.state == RUNNING and runner.progress(first) == Progress("Sampling", 0, 4, 90.0))
    runner.add(second)
    runner.add(third)
    assert [runner.place(job) for job in (first, second, third)] == [0, 1, 2]
    with pytest.raises(InputError, match="2 clips are waiting already"):
        runner.add(fourth)
    with pytest.raises(InputError, match="being made already"):
        runner.add(first)
    runner.cancel(second)
    assert (second.state, runner.place(third)) == (STOPPED, 1)
    (first.folder / "wait").unlink()
    wait_until(lambda: third.state == RUNNING)
    assert first.state == DONE
    (third.folder / "wait").unlink()
    wait_until(lambda: third.state == DONE)


def test_a_cancelled_clip_goes_on_where_it_was(jobs, uploads, runner):
    job = made(jobs, uploads, "wait")
    runner.add(job)
    wait_until(lambda: runner.progress(job).stage == "Sampling")
    runner.cancel(job)
    wait_until(lambda: job.state == STOPPED)
    assert (job.result / "state").read_text() == "0"
    (job.result / "state").write_text("3")
    (job.folder / "wait").unlink()
    runner.add(job)
    wait_until(lambda: job.state == DONE)
    assert (job.result / "begun").read_text() == "3"


def test_a_failed_clip_says_why_in_one_line(jobs, uploads, runner):
    job = made(jobs, uploads, "fail")
    runner.add(job)
    wait_until(lambda: job.state == FAILED)
    assert job.error == "photo.png: end 9 is wrong; give less"
    assert runner.finished == []
    (job.folder / "fail").unlink()
    runner.add(job)
    wait_until(lambda: job.state == DONE)
    assert job.error is None


def test_the_end_of_the_server_stops_its_runs(jobs, uploads, runner):
    running, waiting = made(jobs, uploads, "wait"), made(jobs, uploads)
    runner.add(running)
    wait_until(lambda: runner.progress(running).stage == "Sampling")
    runner.add(waiting)
    runner.close()
    assert (running.state, waiting.state) == (STOPPED, STOPPED)
    assert (running.result / "state").exists()


def test_what_a_killed_server_was_at_work_on_can_go_on(jobs, uploads):
    for state in (WAITING, RUNNING, DONE):
        made(jobs, uploads).set(state)
    (jobs.folder / ("0" * 24)).mkdir()  # of no clip
    (jobs.folder / ("1" * 24)).symlink_to(jobs.folder)
    found = Jobs(jobs.folder, LIMITS).latest(9)
    assert sorted(job.state for job in found) == [DONE, STOPPED, STOPPED]


def test_again_takes_the_inputs_and_what_was_made_on_the_way(jobs, uploads):
    job = made(jobs, uploads, seed=1, preset="draft")
    (job.result / "intermediate" / "skeletons").mkdir(parents=True)
    (job.result / "intermediate" / "skeletons" / "frame_0.png").write_bytes(png())
    (job.result / "animation.mp4").write_bytes(b"")
    again = jobs.again(job, seed=2)
    assert again.values == {"seed": 2, "preset": "draft"}
    files = sorted(str(path.relative_to(again.folder)) for path in again.folder.rglob("*") if path.is_file())
    assert files == ["driver.mp4", "photo.png", "result/intermediate/skeletons/frame_0.png"]
    assert (again.folder / "driver.mp4").stat().st_mtime_ns == (job.folder / "driver.mp4").stat().st_mtime_ns


def test_old_clips_are_removed_and_those_at_work_are_not(jobs, uploads):
    old, new, running, checked = (jobs.make(Uploads(*uploads), {}) for _ in range(4))
    for job in (old, new, running):
        jobs.add(job)
    running.set(RUNNING)
    for job in (old, running):
        job.changed -= 2 * 3600 + 10
    os.utime(checked.folder, times=(1, 1))
    stray = Path(jobs.folder, "of somebody else")
    stray.mkdir()
    os.utime(stray, times=(1, 1))
    assert jobs.forget_old(2) == 1
    assert sorted(path.name for path in jobs.folder.iterdir()) == sorted([new.name, running.name, stray.name])
    assert jobs.find(old.name) is None


@pytest.mark.parametrize("name", ["..", "/etc", "", None, 3, {}])
def test_a_name_is_looked_up_and_never_a_path(jobs, name):
    assert jobs.find(name) is None


def test_a_damaged_job_file_is_passed_over(jobs, uploads):
    job = made(jobs, uploads)
    job.set(DONE)
    path = job.folder / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1}))
    assert Jobs(jobs.folder, LIMITS).latest(9) == []
    assert set(CHOSEN) > {"seed"}
