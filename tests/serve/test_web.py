"""The page in a real browser, over a real server and engine: from an upload to a video that plays while it is made."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from longvie.media import Video, write_video
from longvie.models.loading import TINY
from serve.api import build_api
from serve.engine.engine import Engine
from serve.settings import Owner, ServeSettings
from serve.store import JobStore
from serve.uploads import SAMPLE
from tests.serve.helpers import listening, settings_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this machine; install it (Debian: apt install chromium)"
    ),
    pytest.mark.timeout(300),
]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
expect.set_options(timeout=60_000)
SLOW = "40"  # denoising steps: segments take longer than their bytes


class Running:
    """A server with one engine, in this process."""

    def __init__(self, settings: ServeSettings) -> None:
        self.store = JobStore(settings.database_url)
        self.engine = Engine(settings, self.store)
        self.engine.start()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        self.url = ""

    def _work(self) -> None:
        while not self._stopped.is_set():
            if self.engine.work_one() is None:
                time.sleep(0.05)

    def close(self) -> None:
        self._stopped.set()
        self.engine.close()
        self._thread.join()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServeSettings:
    return settings_of(tmp_path_factory.mktemp("web"), Path(TINY))


@pytest.fixture(scope="module")
def server(settings: ServeSettings) -> Iterator[Running]:
    running = Running(settings)
    try:
        with listening(build_api(settings, running.store)) as url:
            running.url = url
            yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(browser: Browser, server: Running, complaints: list[str]) -> Iterator[Page]:
    """The page; whatever the browser complains of fails the test."""
    page = open_page(browser, server.url, complaints, WIDE)
    yield page
    page.context.close()
    assert complaints == []


def open_page(browser: Browser, url: str, complaints: list[str], size: Any) -> Page:
    page = browser.new_context(viewport=size, reduced_motion="reduce").new_page()
    page.set_default_timeout(60_000)
    page.on(
        "console",
        lambda message: (
            complaints.append(f"{message.text} {message.location['url']}") if message.type == "error" else None
        ),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    return page


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four segments of the sample, as somebody's own file."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    video = Video(SAMPLE)
    count = round(65 / 8 * video.info.fps)
    write_video(path, video.read(range(0, count, 1)), video.info.fps)
    return path


def video_id(page: Page) -> str:
    page.wait_for_url("**/?video=*")
    return page.url.rsplit("=", 1)[1]


def test_an_upload_plays_while_the_rest_is_made(page: Page, server: Running, clip: Path) -> None:
    page.get_by_label("Source video").first.set_input_files(clip)
    expect(page.locator("#prompts li")).to_have_count(4)
    page.locator("#prompts input").nth(2).fill("the rabbit at night")
    page.get_by_text("More settings").click()
    page.get_by_label("Denoising steps").fill(SLOW)
    page.get_by_role("button", name="Generate").click()
    made = video_id(page)
    page.wait_for_function("() => document.getElementById('player').currentTime > 0.2")
    now = httpx.get(f"{server.url}/v1/videos/{made}").json()
    assert now["status"] == "in_progress", "it plays before it is whole"
    assert 1 <= now["segments_done"] < 4
    expect(page.locator("#status")).to_have_text("Done: 4 segments.")
    expect(page.locator("#segments li.completed")).to_have_count(4)
    expect(page.locator("#segments li").nth(2).locator("p")).to_have_text("the rabbit at night")
    page.wait_for_function("() => document.getElementById('player').duration > 8")
    for name in ("Depth of segment 1", "Tracks of segment 1"):
        expect(page.get_by_role("img", name=name)).to_be_visible()
    page.get_by_role("button", name="Depth and tracks of segment 3").click()
    expect(page.get_by_role("img", name="Depth of segment 3")).to_be_visible()

    page.get_by_role("button", name="Beside the source").click()
    page.evaluate("document.getElementById('player').pause(); document.getElementById('player').currentTime = 3")
    page.wait_for_function("() => Math.abs(document.getElementById('source-player').currentTime - 3) < 0.2")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == httpx.get(f"{server.url}/v1/videos/{made}/content").content

    page.reload()
    expect(page.locator("#status")).to_have_text("Done: 4 segments.")
    expect(page.locator(f"#list a[data-id={made}]")).to_have_attribute("aria-current", "true")


def test_anew_from_a_segment_and_on_from_the_end(page: Page, server: Running) -> None:
    page.get_by_role("button", name="use the sample").click()
    page.get_by_text("More settings").click()
    page.get_by_label("Seconds").first.fill("4.125")
    expect(page.locator("#prompts li")).to_have_count(2)
    page.get_by_role("button", name="Generate").click()
    first = video_id(page)
    expect(page.locator("#status")).to_have_text("Done: 2 segments.")
    page.get_by_role("button", name="Make anew from segment 2").click()
    page.get_by_label("Seed").last.fill("5")
    page.get_by_role("button", name="Make anew", exact=True).click()
    page.wait_for_function(f"() => !location.search.endsWith('{first}')")
    expect(page.locator("#status")).to_have_text("Done: 2 segments.")
    again = video_id(page)
    segments = [
        [server.engine.places.storage.read(f"videos/{one}/segments/{k:05d}.mp4") for k in (0, 1)]
        for one in (first, again)
    ]
    assert segments[0][0] == segments[1][0]
    assert segments[0][1] != segments[1][1]
    page.get_by_role("button", name="Extend").click()
    page.get_by_label("Seconds more").fill("2")
    page.get_by_role("button", name="Extend").last.click()
    page.wait_for_function(f"() => !location.search.endsWith('{again}')")
    expect(page.locator("#status")).to_have_text("Done: 1 segment.")
    page.wait_for_function("() => document.getElementById('player').duration > 6")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete").last.click()
    expect(page.locator("#nothing")).to_be_visible()


def test_by_keyboard_alone_and_cancelled(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the video")).to_be_focused()
    page.get_by_role("button", name="use the sample").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="use the sample")).to_have_attribute("aria-pressed", "true")
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Denoising steps").focus()
    page.keyboard.type("100")
    page.keyboard.press("Enter")
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    cancel.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Cancelled.")


def test_refusals_are_said_at_their_field(page: Page, complaints: list[str], tmp_path: Path) -> None:
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("Choose a source video")
    expect(page.get_by_label("Source video").first).to_be_focused()
    (tmp_path / "no.mp4").write_bytes(b"not a video at all")
    page.get_by_label("Source video").first.set_input_files(tmp_path / "no.mp4")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("source")
    complaints[:] = [text for text in complaints if "422" not in text]  # the browser's own line for such an answer


def test_fits_a_phone(browser: Browser, server: Running, page: Page, complaints: list[str]) -> None:
    phone = open_page(browser, server.url, complaints, PHONE)
    phone.get_by_role("button", name="use the sample").click()
    expect(phone.locator("#prompts li").first).to_be_visible()
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    phone.context.close()


def test_a_token_is_asked_for(browser: Browser, tmp_path: Path, complaints: list[str]) -> None:
    token = "ada-" + "0" * 16
    running = Running(settings_of(tmp_path, Path(TINY), owners=(Owner(name="ada", token=token),)))
    try:
        with listening(build_api(running.engine.settings, running.store)) as url:
            page = open_page(browser, url, complaints, WIDE)
            page.get_by_label("Token", exact=True).fill(token)
            page.get_by_role("button", name="Go on").click()
            page.get_by_role("button", name="use the sample").click()
            page.get_by_text("More settings").click()
            page.get_by_label("Seconds").first.fill("2.125")
            page.get_by_role("button", name="Generate").click()
            expect(page.locator("#status")).to_have_text("Done: 1 segment.")
            page.wait_for_function("() => document.getElementById('player').duration > 2")
            with page.expect_download() as download:
                page.get_by_role("link", name="Download").click()
            assert download.value.path().read_bytes()[4:8] == b"ftyp"
            page.context.close()
    finally:
        running.close()
    assert [text for text in complaints if "401" not in text] == []
