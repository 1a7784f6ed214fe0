"""The report in a real browser: it must draw, fit a phone, and log no error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from longvie.metrics.statistics import Estimate
from pipelines.evaluation.charts import ForestRow, drift_curve, forest

_AUDIT = """<script>
addEventListener("error", (event) => { document.title = "ERROR " + event.message; });
addEventListener("load", async () => {
  const videos = [...document.querySelectorAll("video")];
  const ready = (v) => new Promise((done) => v.readyState >= 2 ? done() : (v.onloadeddata = v.onerror = done));
  await Promise.race([Promise.all(videos.map(ready)), new Promise((done) => setTimeout(done, 20000))]);
  const seen = (all) => [...document.querySelectorAll(all)].filter((n) => n.getBoundingClientRect().height > 40).length;
  const found = { drift: seen(".drift svg"), forest: seen(".forest svg"),
    playing: videos.filter((v) => v.videoWidth > 0).length, videos: videos.length,
    wide: document.documentElement.scrollWidth, window: innerWidth };
  const note = document.createElement("pre"); note.id = "audit"; note.textContent = JSON.stringify(found);
  document.body.append(note);
});
</script>"""


def test_it_draws_in_a_browser_on_a_phone(evaluated: tuple[Path, object], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is here; Debian: apt-get install chromium")
    page = (evaluated[0] / "report.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("</head>", _AUDIT + "</head>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=30000"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{tmp_path / 'page.html'}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    said = re.search(r'<pre id="audit">(.*?)</pre>', done.stdout)
    assert said is not None, done.stdout[-500:]
    found = json.loads(said[1])
    assert found["drift"] >= 4
    assert found["forest"] >= 1
    assert found["playing"] == found["videos"] == 3
    assert found["wide"] <= found["window"]


def test_it_is_one_file_and_escapes_what_users_wrote(evaluated: tuple[Path, object]) -> None:
    page = (evaluated[0] / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "Incomplete" not in page


def test_charts_draw_bands_only_where_there_are_intervals() -> None:
    alone = Estimate(mean=1.0, low=None, high=None, num_videos=1)
    banded = Estimate(mean=2.0, low=1.5, high=2.5, num_videos=4)
    colours = {"<a>": "#000", "b": "#111"}
    drawn = drift_curve({"<a>": [(0, alone), (1, alone)], "b": [(0, banded), (1, banded)]}, colours, "x<y")
    assert drawn.count('class="band"') == 1
    assert drawn.count('class="curve"') == 2
    assert "x<y" not in drawn
    rows = [ForestRow(label="<m>", value=9.0, low=5.0, high=12.0, colour="#000")]
    far = forest(rows, "effects")
    assert "<m>" not in far
    assert "<polygon" in far, "beyond the edge: an arrow"
