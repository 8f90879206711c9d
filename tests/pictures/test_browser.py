"""The page in a real browser: what a reader sees and does, without network and with the page's own script alone."""

import io
import wave
from base64 import b64decode
from urllib.parse import unquote

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

from pipeline.pictures.report import write_report
from pipeline.pictures.sound import write_sound
from tests.pictures.chromium import CHROMIUM, browse, browser
from tests.pictures.cubes import failed, planted_cube

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH to render the page with")

CANVAS = ".stage canvas"


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    cube = planted_cube(n_neurons=12, waveform=False)
    cube.attrs["failures"] = failed("gru-seed2", "load", "<script>document.title = 'taken over'</script>")
    # a filter or an order that goes by position instead of by number would not see the neurons backwards
    cube["strf_best_frequency"] = cube["cc_test"] * 0 + xr.DataArray(np.geomspace(4000.0, 200.0, 12), dims="neuron")
    cube["strf_best_frequency"].attrs["role"] = "summary"
    return cube


@pytest.fixture(scope="module")
def page(cube, tmp_path_factory):
    return write_report({"planted": cube}, tmp_path_factory.mktemp("report") / "report.html", title="Planted maps")


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def shown(driven, page):
    driven.open(page)
    driven.show(".browser")
    driven.show(CANVAS)
    return driven


def at_cell(shown, row: float, column: float) -> tuple[float, float]:
    """The place on the grid's canvas that is so many maps down and across; 0.5 is the middle of the first."""
    size = {
        name: float(words) for name, words in shown.ask(f"({{...document.querySelector('{CANVAS}').dataset}})").items()
    }
    across = size["label"] + int(column) * size["wide"] + (column % 1) * (size["wide"] - size["gap"])
    return across, size["head"] + int(row) * size["high"] + (row % 1) * (size["high"] - size["gap"])


def said(shown) -> str:
    return shown.ask("document.querySelector('.said').textContent")


def pointed(shown, row: float, column: float, *, click: bool = False) -> str:
    shown.point(CANVAS, *at_cell(shown, row, column), click=click)
    return said(shown)


def choose(shown, label: str, words: str) -> None:
    """Take an entry of one of the browser's lists by the words on it."""
    shown.ask(
        f"""(() => {{
        const labels = [...document.querySelectorAll(".browser label")];
        const list = labels.find((one) => one.firstChild.data === {label!r} + " ").querySelector("select");
        list.selectedIndex = [...list.options].findIndex((one) => one.textContent === {words!r});
        if (list.selectedIndex < 0) throw Error([...list.options].map((one) => one.textContent).join(", "));
        list.dispatchEvent(new Event("change"));
        }})()"""
    )
    shown.settle()


def test_a_browser_shows_the_failed_checkpoint_and_runs_no_script_but_the_pages_own(page, tmp_path):
    dom = browse(tmp_path, page, "--dump-dom")
    assert "<title>Planted maps</title>" in dom
    assert "gru-seed2" in dom
    assert "&lt;script&gt;document.title" in dom
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


def test_what_is_pointed_at_is_told_in_hertz_milliseconds_and_value(shown, cube):
    band, lag = 13, 4
    words = pointed(shown, 2 + 1 - (band + 0.5) / 24, 1 + (lag + 0.5) / 20)
    who, checkpoint, what = words.split(" · ")
    assert (who, checkpoint) == ("n002", "linear-seed1")
    place, value = what.split(": ")
    frequency = float(cube["frequency"][band])
    assert place == f"{frequency / 1000:.3g} kHz, 40 ms"
    maps = cube["strf"].sel(checkpoint="linear-seed1", neuron="n002")
    step = float(abs(maps).max()) / 127
    assert float(value) == pytest.approx(float(maps[band, lag]), abs=0.51 * step + 0.005 * abs(float(maps[band, lag])))
    assert shown.complaints() == []


def test_failed_and_flagged_maps_say_so(shown):
    assert pointed(shown, 0.5, 5.5) == "n000 · gru-seed2 · failed"
    assert pointed(shown, 1.5, 0.5).endswith(" · all zero map, routes disagree")


def test_neurons_are_filtered_by_metadata_by_standing_and_by_number(shown):
    counts = "document.querySelector('.counts').textContent"
    shown.write(".browser input[placeholder*=area]", "belt")
    assert shown.ask(counts) == "6 of 12 neurons, 6 of 6 checkpoints"
    assert pointed(shown, 1.5, 0.5).startswith("n002 · linear-seed0")
    shown.write(".browser input[placeholder*=architecture]", "gru")
    assert shown.ask(counts) == "6 of 12 neurons, 3 of 6 checkpoints"
    choose(shown, "with a map that is", "not computed")
    assert shown.ask(counts) == "3 of 12 neurons, 3 of 6 checkpoints"
    choose(shown, "with a map that is", "anything")
    choose(shown, "keep", "best frequency (Hz)")
    shown.write(".browser input[type=number]", "2000")
    # 4000 Hz falls to 200 Hz over twelve neurons: four of them lie above 2000, of which two are in the belt
    above = int((np.geomspace(4000.0, 200.0, 12)[::2] >= 2000).sum())
    assert shown.ask(counts) == f"{above} of 12 neurons, 3 of 6 checkpoints"


def test_neurons_are_sorted_by_a_number(shown):
    choose(shown, "sort by", "best frequency (Hz)")
    assert pointed(shown, 0.5, 0.5).startswith("n011 ·")
    shown.ask("document.querySelector('.browser input[type=checkbox]').click()")
    shown.settle()
    assert pointed(shown, 0.5, 0.5).startswith("n000 ·")


def test_a_click_keeps_a_map_with_its_numbers_and_flags(shown, cube):
    pointed(shown, 1.5, 0.5, click=True)
    detail = shown.ask("document.querySelector('.detail').innerText")
    assert "n001 of linear-seed0" in detail
    assert "all zero map" in detail
    assert "area core" in detail
    rows = shown.ask(
        "[...document.querySelectorAll('.detail tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    numbers = {row[0]: row[1:] for row in rows}
    assert float(numbers["best frequency (Hz)"][1]) == pytest.approx(np.geomspace(4000.0, 200.0, 12)[1], rel=5e-3)
    pointed(shown, 0.5, 1.5, click=True)
    rows = shown.ask(
        "[...document.querySelectorAll('.detail tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    gain = float(next(row[1] for row in rows if row[0].startswith("gain")))
    assert gain == pytest.approx(float(np.linalg.norm(cube["strf"].isel(checkpoint=1, neuron=0))), rel=5e-3)


def test_a_map_that_is_kept_stands_beside_those_of_the_neuron_in_all_checkpoints(shown):
    pointed(shown, 2.5, 0.5, click=True)
    strip = ".detail canvas.beside"
    assert shown.ask(f"document.querySelector('{strip}').previousSibling.textContent").startswith("n002 in the 6 check")
    shown.show(strip)
    shown.point(strip, 70 + 30, 20)
    assert said(shown) == "n002 · linear-seed1 · done"
    shown.point(strip, 70 + 30, 20, click=True)
    assert shown.ask("document.querySelector('.detail h5').textContent") == "n002 of linear-seed1"


def test_numbers_of_the_neurons_and_of_a_map_are_there_as_files(shown, cube):
    shown.write(".browser input[placeholder*=area]", "belt")
    pointed(shown, 1.5, 1.5, click=True)
    links = shown.ask("[...document.querySelectorAll('.browser a.numbers')].map((one) => [one.download, one.href])")
    (_, neurons), (name, values) = links
    rows = unquote(neurons.partition(",")[2]).splitlines()
    assert len(rows) == 7
    assert name == "n002-linear-seed1.csv"
    table = np.loadtxt(unquote(values.partition(",")[2]).splitlines(), delimiter=",", skiprows=1)
    one = cube["strf"].sel(checkpoint="linear-seed1", neuron="n002")
    np.testing.assert_allclose(table[:, 0], cube["lag"])
    np.testing.assert_allclose(table[:, 1:].T, one, atol=0.51 * float(abs(one).max()) / 127)


def test_nothing_is_wider_than_a_telephone(driven, page):
    driven.open(page, 390, 800)
    driven.show(".browser")
    driven.show(CANVAS)
    assert driven.ask("document.documentElement.scrollWidth") <= 390
    assert pointed(driven, 0.5, 0.5).startswith("n000 · linear-seed0")


def test_a_click_on_a_point_of_the_population_opens_its_neuron(shown):
    shown.show(".scatter")
    choose(shown, "neurons: across", "best frequency (Hz)")
    # points lie in a line from the lowest to the highest frequency: the last one is the first neuron
    width = shown.ask("document.querySelector('.scatter').clientWidth")
    found = ""
    for y in range(10, 262, 6):
        shown.point(".scatter", 60 + (width - 70) * 0.96, y, click=True)
        found = shown.ask("document.querySelector('.detail').innerText")
        if found:
            break
    assert found.startswith("n000 of linear-seed0")


def test_a_table_is_sorted_by_a_click_on_its_heading(shown):
    pick = "[...document.querySelectorAll('table.sortable')].find((one) => one.tHead.innerText.includes('maps done'))"
    first = f"{pick}.tBodies[0].rows[0].cells[0].textContent"
    assert shown.ask(first) == "n000"
    shown.ask(f"{pick}.tHead.rows[0].cells[0].click()")
    shown.ask(f"{pick}.tHead.rows[0].cells[0].click()")
    assert shown.ask(first) == "n011"


def test_waveform_maps_can_be_heard(driven, tmp_path):
    cube = planted_cube(n_neurons=2, seeds=1).drop_vars(["strf", "strf_status", "strf_health"])
    driven.open(write_report({"planted": cube}, tmp_path / "page.html"))
    driven.show(".browser")
    driven.show(CANVAS)
    pointed(driven, 0.5, 0.5, click=True)
    source = driven.ask("document.querySelector('.detail audio').src")
    driven.ask(
        "new Promise((done, fail) => { const one = document.querySelector('.detail audio');"
        " one.onerror = fail; one.oncanplay = done; one.load(); })"
    )
    assert driven.complaints() == []
    with wave.open(io.BytesIO(b64decode(source.partition(",")[2]))) as heard:
        rate, samples = heard.getframerate(), np.frombuffer(heard.readframes(-1), np.uint8) / 127 - 1.0
    one = cube["waveform"].isel(checkpoint=0, neuron=0).sel(stimulus="bark")
    with_all_bits = write_sound(one, tmp_path / "one.wav")
    import soundfile

    expected, same_rate = soundfile.read(with_all_bits)
    assert rate == same_rate
    assert samples.size == expected.size
    assert np.abs(samples - expected).max() < 0.02
