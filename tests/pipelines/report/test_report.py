"""report.html, parsed: what it says, that it is one safe file, and that equal outputs have equal reports."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from functools import cached_property
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipelines.report.content
import pipelines.report.page as report
import pipelines.report.report
from pipelines.preparation.recipe import Recipe
from pipelines.report.report import write_report
from pipelines.storage import LocalStorage
from tests.pipelines.report.prepared import RECIPE, Prepared

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = '<script>alert(1)</script>"\'&<b onmouseover="x">{{ 7*7 }}'


class Parsed(HTMLParser):
    """Tags, attributes and text of a page whose tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.pieces.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]

    @cached_property
    def words(self) -> str:
        """All text, with single spaces between words and between elements."""
        return " ".join(" ".join(self.pieces).split())


def shown(prepared: Prepared, recipe: Recipe = RECIPE) -> Parsed:
    write_report(prepared.write(), LocalStorage(prepared.folder), recipe)
    return Parsed((prepared.folder / "report.html").read_text(encoding="utf-8"))


def grey(image: dict[str, str]) -> float:
    return float(np.array(Image.open(io.BytesIO(base64.b64decode(image["src"].split(",", 1)[1])))).mean())


def two_sources(folder: Path) -> Prepared:
    """Two sources: one of three shots, one of them left out; one whose second segment failed. And a broken one."""
    prepared = Prepared(folder)
    first = prepared.source("first.mp4", duplicates=["copy.mp4"])
    prepared.shot(first, 0, 0, 25, prompt="a hare runs")
    prepared.shot(first, 1, 25, 28, reason="3 frames, fewer than 9")
    prepared.shot(first, 2, 28, 60)
    prepared.shot(prepared.source("second.mp4"), 0, 0, 17)
    del prepared.segments[-1]
    prepared.videos[-1]["whole"] = False
    prepared.statistics("dataset", "", np.linspace(1, 3, 500, dtype=np.float32).reshape(1, 20, 25))
    prepared.error("broken.mp4", "broken.mp4 is not a readable video", attempts=3)
    return prepared


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return two_sources(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def page(two: Prepared) -> Parsed:
    return shown(two)


@pytest.fixture(scope="module")
def html(two: Prepared, page: Parsed) -> str:
    return (two.folder / "report.html").read_text(encoding="utf-8")


def test_counts_are_at_the_top(page: Parsed) -> None:
    names = "sources read|shots found|shots kept|long videos ready|segments|of video prepared|errors"
    assert dict(re.findall(rf"({names}) (\S+)", page.words)[:7]) == {
        "sources read": "2",
        "shots found": "4",
        "shots kept": "3",
        "long videos ready": "2",
        "segments": "8",
        "of video prepared": "0:08.2",  # 25 + 32 + 9 frames at 8 a second
        "errors": "1",
    }


def test_settings_are_said(page: Parsed) -> None:
    assert "Frames 48x32, 8 fps, crop" in page.words
    assert "cut threshold 3; left out: shorter than 9 frames, brightness below 16, motion below 0.5 Depth" in page.words
    assert "Depth is scaled over each long video" in page.words


def test_frames_depth_and_tracks_stand_side_by_side(page: Parsed) -> None:
    images = page.all("img")
    assert len(images) == 3 * (3 + 3 + 1)
    assert images[0]["alt"] == "Frame in the middle of segment 0, at 0:00.5"
    greys = [grey(image) for image in images[:9]]
    assert greys[1::3] == pytest.approx([80] * 3, abs=3)
    assert greys[2::3] == pytest.approx([160] * 3, abs=3)
    # middle frames of segments 0, 1 and 2, which start at frames 0, 8 and 16; a frame k has grey 4 k
    assert greys[0::3] == pytest.approx([4 * 4, 4 * 12, 4 * 20], abs=3)
    of_third_shot = [grey(image) for image in images[9:18:3]]  # from frame 28: segments 0, 2 and 3 of 4
    assert of_third_shot == pytest.approx([4 * 32, 4 * 48, 4 * 56], abs=3)
    assert "Segment 0, at 0:00.5: a hare runs" in page.words


def test_a_video_that_lacks_a_segment_is_said(page: Parsed) -> None:
    assert page.words.count("segments, ready.") == 2
    assert "1 of 2 segments; not in manifest.jsonl, see the errors." in page.words


def test_histograms_have_their_percentiles(page: Parsed) -> None:
    titles = re.findall(r"Histogram of depth of ([^:]+): 5th percentile (\S+), 95th (\S+)", page.words)
    assert [name for name, _, _ in titles] == ["the whole dataset", "v0-0000", "v2-0002", "v3-0000"]
    assert {(low, high) for _, low, high in titles} == {("1.1", "2.901")}  # float16
    assert page.words.count("500 values of depth (large is far).") == 4
    titles = {title["id"] for title in page.all("title") if "id" in title}
    plots = [svg for svg in page.all("svg", role="img") if svg.get("class") != "timeline"]
    assert [svg["aria-labelledby"] in titles for svg in plots] == [True] * 4


def test_the_timeline_has_every_shot(page: Parsed) -> None:
    lines = page.all("svg", **{"class": "timeline"})
    assert [line["aria-label"] for line in lines] == [
        "Timeline: 3 shots, 2 kept, 1 left out",
        "Timeline: 1 shot, 1 kept, 0 left out",
    ]
    kept = page.all("rect", **{"class": "kept"})
    (left,) = [rect for rect in page.all("rect", **{"class": "left"}) if "x" in rect]
    assert float(left["x"]) == pytest.approx(100 * 25 / 60, abs=0.01)
    assert float(left["width"]) == pytest.approx(100 * 3 / 60, abs=0.01)
    widths = [float(rect["width"]) for rect in kept if "x" in rect]
    assert sum(widths[:2]) + float(left["width"]) == pytest.approx(100, abs=0.01)
    assert "Shot 1, 0:03.1 to 0:03.5: 3 frames, fewer than 9" in page.words
    assert "1 0:03.1 0:03.5 3 frames, fewer than 9 99.5 4.25" in page.words  # the table, with measured values
    assert "Same content, prepared once: copy.mp4" in page.words


def test_errors_are_listed(page: Parsed) -> None:
    assert "broken.mp4 scan file broken.mp4 is not a readable video 3" in page.words


def test_equal_outputs_have_equal_reports(two: Prepared, html: str) -> None:
    shown(two)
    assert (two.folder / "report.html").read_text(encoding="utf-8") == html


def test_the_page_is_one_file_that_loads_and_runs_nothing(page: Parsed, html: str) -> None:
    assert not page.all("script") + page.all("link") + page.all("iframe")
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/webp;base64,"))
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#plot-{name}-grey" for name in ("dataset", "1", "2", "3")}
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_page_can_be_read_by_all(page: Parsed, html: str) -> None:
    assert page.all("html", lang="en")
    assert page.all("meta", name="viewport", content="width=device-width, initial-scale=1")
    assert all(image["alt"] for image in page.all("img"))
    assert all("scope" in head for head in page.all("th"))
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(set(ids)) == len(ids)
    for attribute in ("aria-labelledby", "href"):
        named = {tag[attribute].removeprefix("#") for _, tag in page.tags if attribute in tag}
        assert named <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert "prefers-color-scheme: dark" in html
    assert "max-width: 40rem" in html


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two colours #rrggbb or #rgb."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_in_light_and_in_dark() -> None:
    template = (Path(pipelines.report.report.__file__).parent / "templates" / "report.html").read_text(encoding="utf-8")
    palettes = re.findall(r":root \{([^}]*)\}", template)
    assert len(palettes) == 2
    for palette in palettes:
        colours = dict(re.findall(r"--([\w-]+): (#\w+);", palette))
        for ground in ("ground", "card"):
            for ink in ("ink", "soft", "kept", "left", "bad", "good"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


def test_what_users_wrote_is_shown_not_obeyed(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path)
    source = prepared.source("a.mp4", source=f"/videos/{EVIL}.mp4", duplicates=[EVIL], codec=EVIL)
    prepared.shot(source, 0, 0, 9, prompt=EVIL, files=False)
    prepared.shot(source, 1, 9, 12, reason=EVIL)
    prepared.error(EVIL, EVIL)
    recipe = replace(RECIPE, sparse=replace(RECIPE.sparse, spec=EVIL))
    page = shown(prepared, recipe)
    assert not page.all("script") + page.all("b")
    assert page.words.count(EVIL) >= 8
    assert "49" not in page.words


def test_files_that_are_gone_leave_a_note(tmp_path: Path) -> None:
    two = two_sources(tmp_path)
    (two.folder / "sources" / "second.mp4").unlink()
    (two.folder / two.segments[-1]["sparse"]).write_bytes(b"garbage")
    (two.folder / two.segments[-1]["dense"]).unlink()
    page = shown(two)
    assert page.words.count("cannot be read here") == 3
    assert len(page.all("img")) == 3 * 6


def test_sources_elsewhere_are_not_fetched_again(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path)
    prepared.shot(prepared.source("a.mp4", source="http://127.0.0.1:9/a.mp4"), 0, 0, 9)
    page = shown(prepared)
    assert len(page.all("img")) == 2
    assert page.words.count("cannot be read here") == 1


def test_other_controls_have_no_histogram(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path)
    prepared.shot(prepared.source("a.mp4"), 0, 0, 9)
    prepared.stats.clear()
    dense, sparse = replace(RECIPE.dense, spec="canny"), replace(RECIPE.sparse, spec="openpose")
    page = shown(prepared, replace(RECIPE, dense=dense, sparse=sparse, measured=False, tracked=False))
    assert "Histogram" not in page.words
    assert [image["alt"] for image in page.all("img")][1:] == [
        "Dense control (canny) of the same frame",
        "Sparse control (openpose) of the same frame",
    ]


def test_nothing_prepared_is_a_page_too(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path)
    prepared.error("a.mp4", "a.mp4 does not exist", stage="sources")
    page = shown(prepared)
    assert "No source could be read." in page.words
    assert "No shot was kept." in page.words
    assert "a.mp4 does not exist" in page.words


def test_thousands_of_videos_make_a_page_of_the_same_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Prepared(tmp_path)
    long = "long " * 400
    num_broken = report.MAX_SOURCES + 800
    for number in range(num_broken):
        source = prepared.source("a.mp4", sha256=f"{number:064d}", source=f"http://h/{number}.mp4")
        for shot in range(2 if number else report.MAX_SHOTS + 5):
            prepared.shot(source, shot, 0, 3, reason=long)
        prepared.error(f"{number}.mp4", long)
    videos = report.MAX_VIDEOS + 20
    for number in range(videos):
        prepared.shot(prepared.source("a.mp4", sha256=f"k{number:063d}"), 0, 0, 17, prompt=long, files=False)
    monkeypatch.setattr(pipelines.report.content, "MAX_SHOTS_IN_ALL", report.MAX_SHOTS + 101)
    page = shown(prepared)
    assert len([row for row in page.all("rect") if "x" in row and row.get("class") == "left"]) == report.MAX_SHOTS + 101
    assert page.words.count("They stand in videos.parquet.") > 100
    assert f"The first {report.MAX_VIDEOS} of {videos} are shown; all stand in videos.parquet" in page.words
    assert f"The first {report.MAX_SOURCES} of {num_broken + videos} are shown" in page.words
    assert f"The first {report.MAX_ERRORS} of {num_broken} are shown" in page.words
    assert f"The first {report.MAX_SHOTS} are shown." in page.words
    assert (tmp_path / "report.html").stat().st_size < 3e6
