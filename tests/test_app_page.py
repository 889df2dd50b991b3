"""The page as visitors have it: in a browser, by Gradio's client, and by requests that mean no good."""

import json
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from animation.app.settings import AppSettings
from animation.media.video import VideoFrames
from animation.media.writing import write_mp4
from puppets.writing import Format, write_case
from tests.browser import PATIENCE, ROOT, Page, visiting
from tests.test_app_limits import png, png_header, write_zip
from tests.waiting import wait_until

pytest.importorskip("gradio", reason="the page's package is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.long]
PHOTO, VIDEO = ROOT / "inference" / "case-2" / "reference.png", ROOT / "inference" / "driver.mp4"
SECONDS = 2.0  # of the driver


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A server that nobody else visits; at its end, nobody of other machines was spoken to."""
    page = Page(tmp_path_factory.mktemp("page"), "--largest_upload", "4")
    yield page
    assert page.strangers() == set()
    assert page.close() == 0


@pytest.fixture
def visitor(page):
    with visiting(page.address) as visitor:
        yield visitor
        assert visitor.strangers() == set()


def ask(address, data=None, **headers):
    """The status and the body of an answer."""
    request = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def call(address, photo, driver, settings, face_photo=None):
    """What `/animate` says to inputs as a client sends them."""
    body = json.dumps({"data": [photo, driver, settings, face_photo]}).encode()
    status, answer = ask(f"{address}gradio_api/call/animate", body, **{"Content-Type": "application/json"})
    if status != 200:
        return answer.decode()
    return ask(f"{address}gradio_api/call/animate/{json.loads(answer)['event_id']}")[1].decode()


def file_of(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_the_example_takes_one_click(page, visitor):
    visitor.shoot("empty")
    visitor.click("#example")
    moved, begun = set(), time.monotonic()
    while visitor.text("#run-state") != "Done":
        moved.add(visitor.text("#status .line"))
        assert time.monotonic() < begun + PATIENCE, moved

    assert len([line for line in moved if re.match(r"Sampling \d+ of 15", line)]) >= 2
    assert "24 frames" in visitor.text("#status")
    visitor.wait_for("#clip video")
    duration, plays = visitor.video("#clip video")
    assert plays
    assert duration == pytest.approx(SECONDS, abs=0.1)
    visitor.wait_for("#findings", "✓", seconds=30)
    visitor.shoot("done")
    names = {path.name for path in page.folder.glob("clips/*/*")}
    assert {"photo.png", "driver.mp4", "skeletons.mp4", "frames.zip", "result", "job.json", "log.txt"} <= names


def test_uploads_are_looked_at_cancelled_and_gone_on_with(visitor):
    visitor.upload("photo", PHOTO)
    visitor.upload("driver", VIDEO)
    told = visitor.wait_for("#findings", "✓")
    for part in ("Photo's face: 31×29 pixels", "Driver's person: 1 found", "0.03 of a body height"):
        assert part in told
    assert len(visitor.find("#check img")) == 3
    assert "24 frames at 12 a second" in visitor.wait_for("#plan", "24 frames")
    visitor.enter("end", 0.33)
    visitor.click("#advanced > button")
    visitor.enter("num_inference_steps", 14)
    visitor.wait_for("#plan", "4 frames")
    visitor.click("#go")
    visitor.wait_for("#run-state", "Sampling")
    visitor.click("#cancel")
    visitor.wait_for("#run-state", "Stopped")
    visitor.driver.refresh()  # the browser knows which clip it saw
    visitor.wait_for("#run-state", "Stopped")
    visitor.click("#go-on")
    visitor.wait_for("#run-state", "Done")
    visitor.wait_for("#clip video")
    duration, plays = visitor.video("#clip video")
    assert plays
    assert duration == pytest.approx(4 / 12, abs=0.05)


def test_another_picture_of_the_face_is_looked_at(visitor, tmp_path):
    case = write_case(tmp_path / "case", 2, Format(width=128, height=128, num_frames=2), "hidden")
    visitor.upload("photo", case / "reference.png")
    visitor.upload("driver", VIDEO)
    assert "Photo's face" in visitor.wait_for("#findings", "✓")
    visitor.click("#another-face-button")
    visitor.upload("face-photo", case / "face.png")
    wait_until(lambda: "Face's own picture" in visitor.text("#findings"), every=0.1)
    assert "Photo's face" not in visitor.text("#findings")
    visitor.shoot("another-face")


def test_a_click_chooses_the_person(visitor, tmp_path):
    """Of a driver with two people, who move alike."""
    video = VideoFrames(VIDEO)
    frames = (np.concatenate([frame, frame], axis=1) for frame in video)
    write_mp4(tmp_path / "two.mp4", frames, video.fps)
    visitor.upload("photo", PHOTO)
    visitor.upload("driver", tmp_path / "two.mp4")
    assert "Driver's person: 2 found" in visitor.wait_for("#findings", "✓")
    visitor.wait_for("#pick img")
    field = visitor.find("#setting-person textarea, #setting-person input")[0]
    for side, number in ((0.75, "1"), (0.25, "0")):

        def chosen(side=side, number=number):  # again, where the picture moved under the click
            visitor.click_at("#pick img", side)
            time.sleep(1)
            return field.get_attribute("value") == number

        wait_until(chosen)
    visitor.shoot("two-people")


def wrong_files(folder):
    """A field, a file for it, and what the page says."""
    (folder / "words.png").write_text("just words")
    (folder / "large.png").write_bytes(png_header(10_000, 10_000))
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        frame.rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    write_zip(folder / "bomb.zip", [("frame_0.png", bytes(30 << 20))])
    write_zip(folder / "out.zip", [("../frame_0.png", png())])
    yield "photo", folder / "words.png", "the photo is not a picture that can be read; give a PNG or JPEG file"
    yield "photo", folder / "large.png", "the photo has 10000×10000 pixels; give one of at most 40 megapixels"
    yield "driver", folder / "sound.mp4", "there are no pictures in the file, only sound; give a video"
    yield "driver", VIDEO, "the photo has 10000×10000 pixels"
    yield "photo", PHOTO, ""
    yield "zip", folder / "bomb.zip", "the zip unpacks to more than 16 MB; give fewer pictures"
    yield "zip", folder / "out.zip", "the zip holds a name that leads out of it; pack the pictures again"


def test_wrong_files_get_one_line(visitor, tmp_path):
    for field, path, told in wrong_files(tmp_path):
        if field == "zip":
            visitor.click("#zipped-button")
        visitor.upload(field, path)
        shown = visitor.wait_for("#check .error", told) if told else visitor.wait_for("#findings", "✓")
        assert "Traceback" not in visitor.driver.page_source
        assert str(tmp_path) not in shown
    visitor.click("#go")
    visitor.wait_for("#problem .error", "the zip holds a name")
    visitor.shoot("error")


def test_two_visitors_wait_for_each_other(page, visitor):
    with visiting(page.address) as other:
        for someone in (visitor, other):
            someone.upload("photo", PHOTO)
            someone.upload("driver", VIDEO)
            someone.wait_for("#findings", "✓")
            someone.click("#advanced > button")
            someone.enter("num_inference_steps", 200)
        visitor.click("#go")
        visitor.wait_for("#run-state", "Starting")
        other.click("#go")
        assert other.wait_for("#status", "Waiting") == "Waiting 1 clip before yours"
        visitor.click("#cancel")
        visitor.wait_for("#run-state", "Stopped")
        other.wait_for("#run-state", "Starting")
        other.click("#cancel")
        other.wait_for("#run-state", "Stopped")
        assert other.strangers() == set()


@pytest.mark.parametrize(("width", "dark"), [(360, False), (760, True), (1280, True)])
def test_the_page_fits_its_window(page, width, dark):
    with visiting(page.address, width=width, dark=dark) as visitor:
        assert visitor.overflow() == 0
        visitor.upload("photo", PHOTO)
        visitor.upload("driver", VIDEO)
        visitor.wait_for("#findings", "✓")
        assert visitor.overflow() == 0
        visitor.shoot(f"window-{width}{'-dark' * dark}")


def test_every_field_and_button_has_a_name(visitor):
    script = """
    const named = e => (e.labels && e.labels.length) || e.getAttribute('aria-label') || e.innerText.trim() || e.title;
    const shown = e => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
    return [...document.querySelectorAll('button, input:not([type=file]), textarea, select')]
        .filter(e => shown(e) && !named(e)).map(e => e.outerHTML.slice(0, 200));
    """
    visitor.click("#advanced > button")
    assert visitor.driver.execute_script(script) == []


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "README.md"), str(ROOT / "checkpoints/tiny/model.json")])
def test_files_outside_are_not_served(page, path):
    for address in (f"file={path}", f"file=../../../../../../../..{path}", f"file={page.folder}/clips/../../..{path}"):
        status, body = ask(f"{page.address}gradio_api/{address}")
        assert status in (403, 404)
        assert body[:5] != Path(path).read_bytes()[:5]
    answer = call(page.address, file_of(path), file_of(path), {}, file_of(path))
    assert "error" in answer
    assert "root:" not in answer


def test_nothing_is_fetched_for_a_visitor(page):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(3)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/photo.png"
        assert "error" in call(page.address, *[file_of(address)] * 2, {}, file_of(address))
        for place in (f"file={address}", "file=http://example.org/", f"proxy={address}"):
            assert ask(f"{page.address}gradio_api/{place}")[0] == 403
        with pytest.raises(TimeoutError):
            server.accept()


def test_answers_say_that_nothing_comes_from_elsewhere(page):
    with urllib.request.urlopen(page.address) as answer:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert ask(f"{page.address}docs")[0] == 404
    assert ask(f"{page.address}monitoring")[0] in (403, 404)


def test_only_animate_is_public(page):
    named = json.loads(ask(f"{page.address}gradio_api/info")[1])
    assert list(named["named_endpoints"]) == ["/animate"]
    assert named["unnamed_endpoints"] == {}


def test_an_upload_has_a_largest_size(page):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../a.mp4"\r\n\r\n'
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _ = ask(f"{page.address}gradio_api/upload", head + bytes(5 << 20) + b"\r\n--x--\r\n", **multipart)
    assert status == 413
    status, body = ask(f"{page.address}gradio_api/upload", head + b"small\r\n--x--\r\n", **multipart)
    assert status == 200
    assert Path(json.loads(body)[0]).is_relative_to(page.folder / "uploads")


def test_a_password_guards_everything(tmp_path):
    page = Page(tmp_path, "--auth", "anna:secret")
    try:
        for place in ("config", "gradio_api/info", f"gradio_api/file={page.folder}/clips"):
            assert ask(f"{page.address}{place}")[0] in (401, 403)
        assert b"auth_required" in ask(page.address)[1]
    finally:
        assert page.close() == 0


def test_the_api_example_of_the_documentation_runs(page, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(block.strip().splitlines()) <= 10
    code = block.replace(f"http://127.0.0.1:{AppSettings().port}", page.address)
    assert code != block
    for name, path in (("me.jpg", PHOTO), ("dance.mp4", VIDEO)):
        code = code.replace(f'"{name}"', repr(str(path)))
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(code, "page.md", "exec"), namespace)
    assert namespace["run"]["settings"]["seed"] == 7
    with av.open(namespace["clip"]) as container:
        assert container.streams.video[0].frames == namespace["run"]["num_frames"]


def test_the_picture_of_the_readme_is_small():
    path = ROOT / "docs" / "images" / "page.png"
    assert path.stat().st_size < 400_000
    with Image.open(path) as picture:
        assert picture.width >= 1000
