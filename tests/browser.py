"""The page in a real browser: Debian's Chromium, driven by selenium, and a server that tells whom it spoke to."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "build" / "screenshots"
BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
MISSING = "no browser: apt-get install chromium chromium-driver" if None in (BROWSER, DRIVER) else None
PATIENCE = 180  # seconds
# Imported by every Python process of the server before anything else: writes down each address that is spoken to.
WATCH = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        place = arguments[1] if event != "socket.getaddrinfo" else arguments[0]
        with open(os.environ["WATCH_FILE"], "a") as file:
            file.write(f"{event} {place[0] if isinstance(place, tuple) else place}\\n")
sys.addaudithook(watch)
"""
NEAR = ("127.", "::1", "localhost", "/", "b'/", "None", "")


class Page:
    """A running server of the page.

    Attributes:
        address: of the page.
        folder: of its clips.
        process: to look at.
    """

    def __init__(self, folder: Path, *flags: str):
        self.folder, self._watched = folder / "page", folder / "spoken-to"
        (folder / "watch").mkdir(parents=True)
        (folder / "watch" / "sitecustomize.py").write_text(WATCH)
        environment = os.environ | {"PYTHONPATH": str(folder / "watch"), "WATCH_FILE": str(self._watched)}
        command = [sys.executable, ROOT / "app.py", "--port", "0", "--folder", self.folder, *flags]
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        line = self.process.stdout.readline()
        assert line.startswith("The page is at "), (folder / "log").read_text()
        self.address = line.split()[4].rstrip(";")

    def strangers(self) -> set[str]:
        """Whom it spoke to, or asked after, of other machines."""
        lines = self._watched.read_text().splitlines() if self._watched.exists() else []
        places = {line.partition(" ")[2] for line in lines}
        return {place for place in places if place not in NEAR and not place.startswith(tuple(filter(None, NEAR)))}

    def close(self) -> int:
        """End it as Ctrl+C does, and return its status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.log.close()
        return status


class Visitor:
    """A browser on the page.

    Args:
        address: of the page.
        width: of its window, pixels.
        dark: whether it prefers dark colours.
    """

    def __init__(self, address: str, width: int = 1280, dark: bool = False):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
            options.add_argument(f"--{flag}")
        options.add_argument("--disable-background-networking")
        options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver, self.width = webdriver.Chrome(options=options, service=Service(DRIVER)), width
        self._resize(1000)
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.hosts: set[str] = set()
        self.driver.get(address)
        self.wait_for("#go")
        time.sleep(1)  # until it listens

    def _resize(self, height: int) -> None:
        size = {"width": self.width, "height": height, "deviceScaleFactor": 1, "mobile": self.width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def find(self, selector: str) -> list:
        """What is on the page."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """What stands somewhere; empty where there is nothing."""
        from selenium.common.exceptions import StaleElementReferenceException

        with contextlib.suppress(StaleElementReferenceException):
            return " ".join(part.text for part in self.find(selector)).replace("\n", " ").strip()
        return ""

    def wait_for(self, selector: str, text: str = "", seconds: float = PATIENCE) -> str:
        """Wait until something is shown that begins with a text, and return all of it."""
        end = time.monotonic() + seconds
        while True:
            shown = self.text(selector)
            if shown.startswith(text) and (shown or (not text and self.find(selector))):
                return shown
            assert time.monotonic() < end, f"{selector} shows {shown!r}, not {text!r}; {self.text('body')[:2000]}"
            time.sleep(0.1)

    def upload(self, field: str, path: Path) -> None:
        """Give a file to one of the page's fields, by its id."""
        end = time.monotonic() + 20
        while not self.find(f"#{field} input[type=file]"):
            for button in self.find(f"#{field} button[aria-label='Clear'], #{field} button[aria-label='Remove']"):
                button.click()
            assert time.monotonic() < end
            time.sleep(0.2)
        self.find(f"#{field} input[type=file]")[0].send_keys(str(path))

    def click(self, selector: str) -> None:
        """Click on something, wherever it is on the page."""
        self.wait_for(selector)
        self.driver.execute_script("arguments[0].click()", self.find(selector)[0])

    def click_at(self, selector: str, across: float) -> None:
        """Click on a picture at a share of its width, at half its height."""
        from selenium.webdriver import ActionChains

        picture = self.find(selector)[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
        place = round((across - 0.5) * picture.size["width"])
        ActionChains(self.driver).move_to_element_with_offset(picture, place, 0).click().perform()

    def enter(self, setting: str, value: object) -> None:
        """Write into a setting's field."""
        field = self.find(f"#setting-{setting} input, #setting-{setting} textarea")[0]
        field.send_keys("\ue009a\ue000", str(value), "\ue004")  # all of it is replaced, and the field left

    def video(self, selector: str) -> tuple[float, bool]:
        """How long a video is, in seconds, and whether it plays."""
        script = """
        const [video, done] = [document.querySelector(arguments[0]), arguments[1]];
        const told = () => done([video.duration, video.currentTime > 0]);
        const tell = () => video.play().then(() => setTimeout(told, 700));
        video.muted = true;
        video.readyState > 0 ? tell() : video.addEventListener("loadedmetadata", tell);
        """
        self.driver.set_script_timeout(30)
        return tuple(self.driver.execute_async_script(script, selector))

    def overflow(self) -> int:
        """Pixels of the page that are right of its window."""
        return self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth") + (
            self.driver.execute_script("return window.innerWidth") - self.width
        )

    def shoot(self, name: str) -> None:
        """Keep a picture of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self._resize(self.driver.execute_script("return document.body.scrollHeight"))
        time.sleep(0.5)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
        self._resize(1000)

    def strangers(self) -> set[str]:
        """The other machines that the page asked for anything."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                address = message["params"].get("url") or message["params"]["request"]["url"]
                self.hosts.add(urlsplit(address).hostname)
        return self.hosts - {"127.0.0.1", None}

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()


@contextlib.contextmanager
def visiting(address: str, **options):
    """A visitor for a while; skips the test where there is no browser."""
    if MISSING:
        pytest.skip(MISSING)
    pytest.importorskip("selenium", reason="selenium is not installed")
    visitor = Visitor(address, **options)
    try:
        yield visitor
    finally:
        visitor.close()
