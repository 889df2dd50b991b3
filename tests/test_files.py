"""Files that are whole or not there, folders that one run holds, and links that lead nowhere."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from animation.errors import InputError
from animation.files import locked, read_json, refuse_links, write_json, write_whole
from animation.media.writing import check_writable


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_whole(path, lambda partial: partial.write_text("old"))

    def fail(partial):
        partial.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", [None, ".other.txt"])
def test_a_file_that_was_planted_as_a_link_is_not_written_through(tmp_path, name):
    outside = tmp_path / "outside.txt"
    outside.write_text("theirs")
    folder = tmp_path / "out"
    folder.mkdir()
    for planted in ("file.txt", ".partial-file.txt", ".other.txt"):
        (folder / planted).symlink_to(outside)
    write_whole(folder / "file.txt", lambda partial: partial.write_text("ours"), name and folder / name)
    assert outside.read_text() == "theirs"
    assert (folder / "file.txt").read_text() == "ours" and not (folder / "file.txt").is_symlink()


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, tmp_path]})
    assert read_json(tmp_path / "a.json") == {"a": [1, str(tmp_path)]}
    for content in ("", "[1]", "{", "\0", "[" * 100_000):
        (tmp_path / "b.json").write_text(content)
        assert read_json(tmp_path / "b.json") == {}
    assert read_json(tmp_path / "nowhere.json") == {}


def test_a_folder_is_held_once_at_a_time(tmp_path):
    folder = tmp_path / "deep" / "out"
    with locked(folder):
        with pytest.raises(InputError, match=f"process {os.getpid()} on .*, since .* is at work there"), locked(folder):
            raise AssertionError("both are in")
        with locked(tmp_path / "other"):
            pass
        assert not (tmp_path / "other").exists()
    assert not (tmp_path / "deep").exists()
    with locked(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX shell")
def test_a_process_that_was_killed_holds_nothing(tmp_path):
    code = "import sys, time, pathlib\nfrom animation.files import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    with pytest.raises(InputError, match=f"process {process.pid} on"), locked(tmp_path):
        raise AssertionError("both are in")
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    start = time.monotonic()
    with locked(tmp_path):
        assert time.monotonic() - start < 5
    assert list(tmp_path.iterdir()) == []


def test_links_within_an_output_folder_are_refused(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (folder / "intermediate").mkdir(parents=True)
    (folder / "animated_images").symlink_to(outside)
    (folder / "intermediate" / "skeletons").symlink_to(tmp_path / "dangling")
    with pytest.raises(InputError, match=r"animated_images: a symbolic link to .*outside"):
        check_writable(folder, "animated_images")
    with pytest.raises(InputError, match="skeletons: a symbolic link"):
        refuse_links(folder, ["intermediate", "intermediate/skeletons"])
    check_writable(folder, "intermediate", "other")
    (tmp_path / "linked").symlink_to(folder)  # the output folder itself may be one
    check_writable(tmp_path / "linked", "intermediate")


def test_processes_that_check_one_folder_at_once_do_not_hinder_each_other(tmp_path):
    folder = tmp_path / "output" / "train"
    with ThreadPoolExecutor(4) as processes:
        list(processes.map(lambda _: check_writable(folder), range(400)))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "output").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="cannot be written to"):
        check_writable(folder)  # a control
