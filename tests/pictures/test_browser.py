"""The page in a real browser: what a reader sees, without network and without scripts."""

import shutil
import subprocess

import pytest
from matplotlib.image import imread

from pipeline.pictures.report import write_report
from tests.pictures.cubes import failed, planted_cube

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH to render the page with")

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def browse(folder, page, *options: str) -> str:
    """What Chromium prints for ``page``, with a profile of its own."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=600, check=True).stdout.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    cube = planted_cube(n_neurons=4, waveform=False)
    cube.attrs["failures"] = failed("gru-seed2", "load", "<script>document.title = 'taken over'</script>")
    return write_report({"planted": cube}, tmp_path_factory.mktemp("report") / "report.html", title="Planted maps")


def test_a_browser_shows_the_failed_checkpoint_and_runs_no_script(page, tmp_path):
    dom = browse(tmp_path, page, "--dump-dom")
    assert "<title>Planted maps</title>" in dom
    assert "gru-seed2" in dom
    assert "&lt;script&gt;document.title" in dom
    assert "<script" not in dom
    assert dom.count("<img ") >= 4


def test_a_browser_draws_the_page_with_its_pictures(page, tmp_path):
    target = tmp_path / "page.png"
    browse(tmp_path, page, "--window-size=1180,3200", f"--screenshot={target}")
    shown = imread(target)[..., :3]
    assert shown.shape[:2] == (3200, 1180)
    red = (shown[..., 0] > 0.6) & (shown[..., 1] < 0.25) & (shown[..., 2] < 0.3)
    blue = (shown[..., 2] > 0.5) & (shown[..., 0] < 0.3)
    orange = (shown[..., 0] > 0.85) & (abs(shown[..., 1] - 0.62) < 0.06) & (shown[..., 2] < 0.1)
    assert red.sum() > 500  # failed maps, excitatory fields
    assert blue.sum() > 500  # suppressive fields
    assert orange.sum() > 500  # maps not to be trusted
    assert (shown.min(axis=(1, 2)) == 1).any()  # and room between
