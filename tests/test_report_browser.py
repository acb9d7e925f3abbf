"""Pages in a real browser: no error, no request, tables that sort, a viewer that starts and moves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from screen_folders import AFFINE, made_up_screen

import gpuroi
from gpuroi.report.screen_page import screen_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: none of chromium, google-chrome is installed")

# Runs after the scripts of the page, and writes what it finds into the title.
_ACTIONS = """<script>
addEventListener("load", async () => {
  const found = {};
  const table = document.querySelector("[aria-label^='clusters of'] table");
  const column = (k) => [...table.tBodies[0].rows].map((row) => row.cells[k].textContent);
  const button = table.tHead.rows[0].cells[4].querySelector("button");
  found.before = column(4);
  button.click();
  found.up = column(4);
  found.sorted = table.tHead.rows[0].cells[4].getAttribute("aria-sort");
  button.click();
  found.down = column(4);
  const box = document.querySelector("details.viewer");
  box.open = true;
  for (let k = 0; k < 100 && !box.dataset.ready; k += 1) await new Promise((done) => setTimeout(done, 20));
  found.ready = box.dataset.ready;
  const where = box.querySelector("[data-part=where]");
  found.start = where.textContent;
  const canvas = box.querySelector("[data-part=planes] canvas");
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "PageUp", bubbles: true }));
  found.moved = where.textContent;
  found.width = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.title = JSON.stringify(found);
});
</script></body>"""


def run(page: Path, width: int = 1280) -> tuple[str, str]:
    """The page as Chromium has it after its scripts, and what Chromium logs."""
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"),
            *(f"--window-size={width},2000", "--virtual-time-budget=8000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("screen") / "run"
    return screen_page(made_up_screen(home, cluster_p=0.01, n_permutations=100))


@pytest.mark.parametrize("width", [1280, 390])
def test_a_screening_in_the_browser(html: str, tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    page.write_text(html.replace("</body>", _ACTIONS), encoding="utf-8")
    dom, log = run(page, width)
    assert "CONSOLE" not in log
    assert "Refused to" not in log
    found = json.loads(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1])
    up = [float(text) for text in found["up"]]
    assert up == sorted(map(float, found["before"]))
    assert [float(text) for text in found["down"]] == up[::-1]
    assert found["sorted"] == "ascending"
    assert found["ready"] == "yes"
    assert re.fullmatch(r"x -?\d+, y -?\d+, z -?\d+ mm: t -?\d+\.\d\d", found["start"])
    assert found["moved"] != found["start"]
    assert found["width"] == 0  # nothing wider than the screen


def test_regions_and_clusters_in_the_browser(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    values[3:6, 3:6, 3:6] = 6
    nib.Nifti1Image(values, AFFINE).to_filename(tmp_path / "map.nii.gz")
    pages = {
        "regions": gpuroi.regions(tmp_path / "map.nii.gz", threshold=3.0, device="cpu").report(),
        "clusters": gpuroi.clusters(tmp_path / "map.nii.gz", threshold=3.0, device="cpu").report(),
    }
    for name, text in pages.items():
        page = tmp_path / f"{name}.html"
        page.write_text(text.replace('<details class="viewer">', '<details class="viewer" open>'), encoding="utf-8")
        dom, log = run(page)
        assert "CONSOLE" not in log
        assert 'data-ready="yes"' in dom
        assert dom.count("<button") > 5
