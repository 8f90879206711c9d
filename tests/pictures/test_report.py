"""The page says what failed, what not to trust and what the population looks like, and nothing in it can act."""

import io
import json
import re
import time
import warnings
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

from pipeline.numbers.strf import strf_summaries
from pipeline.pictures.choosing import choose_measured
from pipeline.pictures.kinds import strf, waveform
from pipeline.pictures.page import LARGEST_NUMBERS, cell, document, element, numbers, table
from pipeline.pictures.report import write_report
from pipeline.pictures.sections.measured import measures_of
from pipeline.pictures.sections.methods import CITED
from pipeline.pictures.sections.outcome import outcomes
from tests.pictures.cubes import failed, planted_cube

WAVEFORM_VARIABLES = ("waveform", "waveform_status", "waveform_health")
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """What a page consists of: its tags, its attributes, its words, the words of each row of a table."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.rows: list[list[str]] = []
        self.inside = False
        self.scripts: list[tuple[str, str | None]] = []
        self.in_script = False
        self.files: dict[str, str] = {}
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

        if "download" in (given := dict(attrs)):
            self.files[str(given["download"])] = str(given["href"])
        if tag == "script":
            self.scripts.append(("", dict(attrs).get("type")))
        self.in_script = tag == "script"

    def handle_endtag(self, tag):
        self.in_script = False
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.in_script:
            content, how = self.scripts[-1]
            self.scripts[-1] = (content + data, how)
            return
        self.words += data
        if self.inside:
            self.rows[-1][-1] += data


def page_of(cohorts, folder: Path, **options) -> Page:
    return Page(write_report(cohorts, folder / "report.html", **options).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return planted_cube(n_neurons=9, waveform=False)


@pytest.fixture(scope="module")
def page(cube, tmp_path_factory) -> Page:
    return page_of({"planted": cube}, tmp_path_factory.mktemp("report"))


def test_the_failed_checkpoint_its_cause_and_its_message_are_in_the_table(page):
    (row,) = [row for row in page.rows if row[:3] == ["planted", "gru-seed2", "load"]]
    assert "model.safetensors is truncated" in row[-1]
    assert page.words.index("gru-seed2") < page.words.index("linear-seed1")


def test_the_verdict_counts_what_is_done_failed_missing_and_not_to_be_trusted(page):
    (row,) = [row for row in page.rows if row[:2] == ["planted", "strf"]]
    # 6 x 9 maps: one checkpoint of 9 failed, 5 of the one before are pending, two carry flags
    assert row[3] == "6 x 9"
    assert row[-4:] == ["74.1 %", "2", "9", "5"]


def test_health_flags_are_counted_by_checkpoint_and_named_by_neuron(page):
    assert ["maps with this flag, by checkpoint", "all zero map", "truncated window", "routes disagree"] in page.rows
    assert ["linear-seed0", "1", "0", "1"] in page.rows
    assert ["gru-seed1", "truncated window", "n000"] in page.rows


def test_maps_around_sounds_are_counted_for_each_sound_and_measured_over_those_that_can_be_trusted(tmp_path):
    cube = planted_cube(architectures=("ln",), seeds=3, n_neurons=4).drop_vars(
        ["strf", "strf_status", "strf_health", "strf_memory_90", "strf_oldest_share"]
    )
    cube["waveform_status"][:] = 1
    cube["waveform"][:] = planted_cube(architectures=("ln",), seeds=4, n_neurons=4)["waveform"].values[:3]
    cube["waveform_health"].loc[{"stimulus": "bark"}] = 0b100  # every map around the first sound
    page = page_of({"a": cube}, tmp_path)
    (row,) = [row for row in page.rows if row[:2] == ["a", "waveform"]]
    assert row[3] == "3 x 4 x 2 sounds"
    assert row[-5:] == ["24", "100 %", "12", "0", "0"]
    assert ["ln-seed0", "bark", "clamped or silent stimulus", "all 4"] in page.rows
    assert ["ln-seed0", "4"] in page.rows
    assert "Centroid frequency: median" in page.words
    assert "maps and agreement: stimulus rain" in page.words


def test_a_neurons_number_is_the_median_over_the_sounds_whose_map_is_to_be_trusted():
    cube = planted_cube(architectures=("ln",), seeds=2, n_neurons=2)
    cube["waveform_status"][:] = 1
    stimuli = ["bark", "rain", "wind"]
    cube = cube.drop_dims("stimulus").assign(
        {name: cube[name].isel(stimulus=[0, 1, 1]).assign_coords(stimulus=stimuli) for name in WAVEFORM_VARIABLES}
    )
    per_sound = xr.DataArray([100.0, 300.0, 900.0], dims="stimulus", coords={"stimulus": stimuli})
    cube["waveform_centroid_frequency"] = cube["waveform_status"] * 0 + per_sound
    cube["waveform_health"].loc[{"stimulus": "bark", "neuron": "n001"}] = 1
    (entry,) = [one for one in outcomes({"a": cube}) if one.name == "waveform"]
    found = measures_of(entry, choose_measured(entry.best, entry.cube, entry.sounds), waveform.TOLD)
    assert found.numbers["centroid_frequency"].sel(neuron="n000").values.tolist() == [300.0, 300.0]
    assert found.numbers["centroid_frequency"].sel(neuron="n001").values.tolist() == [600.0, 600.0]
    assert str(found.maps["stimulus"].values) == "rain"


def test_flags_count_by_how_much_they_take_from_a_map_and_say_what_they_mean(tmp_path):
    cube = planted_cube(architectures=("ln",), seeds=1, n_neurons=4, waveform=False)
    cube["strf_status"][:], cube["strf"][:] = 1, 1.0
    cube["strf_health"][:] = [[0, 1, 2, 8]]
    degrees = {"all_zero_map": "no map", "truncated_window": "incomplete", "near_eps_normalisation": "notice"}
    table = {name: {"degree": degree, "remedy": f"do {name}"} for name, degree in degrees.items()}
    table["truncated_window"]["meaning"] = "the window cuts the map off"
    cube["strf_health"].attrs["flag_table"] = json.dumps(table)
    page = page_of({"a": cube}, tmp_path)
    (row,) = [row for row in page.rows if row[:2] == ["a", "strf"]]
    assert row[-5:] == ["4", "100 %", "2", "0", "0"]
    assert "2 of 4 maps (no map: 1, incomplete: 1; by flag all zero map: 1, truncated window: 1)" in page.words
    assert "1 of 4 maps (done, with a notice: 1; by flag near eps normalisation: 1)" in page.words
    assert ["truncated window", "incomplete", "the window cuts the map off", "", "do truncated_window"] in page.rows


def test_a_failed_checkpoint_without_labels_is_no_architecture_of_its_own(tmp_path):
    cube = planted_cube(architectures=tuple("abcdef"), seeds=2, n_neurons=2, waveform=False)
    names = cube["architecture"].values.copy()
    names[-1] = ""  # the checkpoint that failed at load
    page = page_of({"a": cube.assign_coords(architecture=("checkpoint", names))}, tmp_path)
    assert "architectures." not in page.words
    assert not [row for row in page.rows if row[:1] == [""] and "trusted" in row[-1]]


def test_the_population_is_told_from_trusted_maps(page):
    assert re.search(r"Best frequency: median [\d.]+ k?Hz, half of the maps between", page.words)
    assert "without those that are not to be trusted" in page.words
    row = next(row for row in page.rows if row and row[0] == "n004")  # the table of strf comes first
    head = next(row for row in page.rows if row[:2] == ["neuron", "maps done"])
    assert row[head.index("site")] == "site1"
    assert float(row[head.index("best frequency (Hz)")]) == pytest.approx(1225, rel=0.15)  # planted: sqrt(300 x 5000)


def test_the_page_says_which_maps_it_shows(page):
    assert "5 of 6 checkpoints, all that have maps; 8 of 9 neurons, evenly spaced in the order of their frequency" in (
        page.words
    )
    assert "24 x 20 pixels each: all bins" in page.words


def test_config_versions_routes_and_fingerprints_are_told(page):
    assert '[[cohort]]\nname = "planted"' in page.words
    assert "torch 2.13.0" in page.words
    assert "strf: factored (5 checkpoints)" in page.words
    (row,) = [row for row in page.rows if row[:2] == ["gru-seed1", f"{4:012x}"[:12]] or row[1:2] == ["0" * 12]][:1]
    assert row[1] == "0" * 12


def test_the_page_is_one_file_that_loads_nothing_and_runs_its_own_script_alone(page):
    scripts = [(content, how) for content, how in page.scripts if how != "application/json"]
    ((content, how),) = scripts
    assert how is None
    (policy,) = [value for _, value in page.attributes if value.startswith("default-src 'none'")]
    assert policy.split("script-src ")[1] == f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
    assert not re.search(r"fetch|XMLHttpRequest|import\s*\(|WebSocket|eval|Function|https?:|innerHTML", content)
    assert not set(page.tags) & {"iframe", "object", "embed", "link", "form", "base", "video", "audio", "svg"}
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert sources
    assert all(value.startswith(("data:image/png;base64,", "data:text/csv;base64,", "#")) for value in sources)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(value for name, value in page.attributes if name == "alt")


def test_whatever_a_checkpoint_or_a_config_holds_stays_text(tmp_path):
    ids = np.array([f"{HOSTILE}{k}" for k in range(2)], dtype=object)
    cube = planted_cube(architectures=("linear",), seeds=2, n_neurons=2, waveform=False)
    cube = cube.assign_coords(checkpoint=ids, architecture=("checkpoint", ids), site=("neuron", ids))
    cube.attrs |= {
        "failures": failed(ids[-1], HOSTILE, f"{HOSTILE} \x00\x1b[31m {'x' * 5000}"),
        "fingerprints": json.dumps({HOSTILE: HOSTILE}),
        "config": f"</pre>{HOSTILE}",
        HOSTILE: HOSTILE,
        "routes": json.dumps({"strf": {HOSTILE: HOSTILE}}),
    }
    cube["strf"].attrs["units"] = cube["strf"].attrs["objective"] = HOSTILE
    cube["strf_health"].attrs["flag_meanings"] = HOSTILE.replace(" ", "_") + " b c d e"
    page = page_of({HOSTILE: cube}, tmp_path, title=HOSTILE)
    assert [how for _, how in page.scripts] == ["application/json", None]
    assert json.loads(page.scripts[0][0])["checkpoints"] == [*ids]
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert {value[:5] for name, value in page.attributes if name == "src"} == {"data:"}
    assert HOSTILE in page.words
    assert "\x00" not in page.words
    assert "\x1b" not in page.words


def test_a_failure_without_a_recorded_cause_is_told_all_the_same(tmp_path):
    cube = planted_cube(architectures=("gru",), waveform=False, n_neurons=1)
    del cube.attrs["failures"]
    page = page_of({"a": cube}, tmp_path)
    assert ["a", "gru-seed2", "not recorded", "strf", "the cube holds no message for it"] in page.rows


def test_a_clean_cube_says_that_nothing_failed(tmp_path):
    cube = planted_cube(architectures=("ln",), waveform=False, n_neurons=1).isel(checkpoint=[0])
    cube["strf_health"][:] = 0
    cube.attrs["failures"] = "{}"
    page = page_of({"a": cube}, tmp_path)
    assert "Nothing failed." in page.words
    assert "Every map is done." in page.words
    assert "No map carries a health flag." in page.words


def test_a_cube_with_nothing_done_yet_still_makes_a_page(tmp_path):
    cube = planted_cube(seeds=1, n_neurons=2)
    cube["strf"][:], cube["waveform"][:] = np.nan, np.nan
    cube["strf_status"][:], cube["waveform_status"][:] = 0, 0
    page = page_of({"a": cube}, tmp_path)
    assert "there is no map to show yet" in page.words
    assert "strf: no map is done, so none has a health" in page.words
    assert "no map carries a flag" not in page.words
    assert "img" in page.tags  # the picture of what is done


@pytest.mark.parametrize(
    "cut",
    [
        lambda cube: cube.drop_vars(["strf_status", "strf_health"]),
        pytest.param(
            lambda cube: cube.drop_vars([name for name in cube.coords if name not in cube.dims]), marks=pytest.mark.slow
        ),
        lambda cube: planted_cube(architectures=("ln",), seeds=1, n_neurons=1, n_lags=6),
        lambda cube: cube.isel(frequency=[3]),
        pytest.param(lambda cube: cube.isel(lag=[0]), marks=pytest.mark.slow),
        lambda cube: cube.isel(checkpoint=slice(0, 0)),
        lambda cube: cube.isel(neuron=slice(0, 0)),
        lambda cube: cube.drop_vars(list(cube.data_vars)),
        pytest.param(
            lambda cube: cube.assign_coords(frequency=np.linspace(0, 4000, cube.sizes["frequency"])),
            marks=pytest.mark.slow,
        ),
        lambda cube: cube.assign(strf=(cube["strf"] * 0).assign_attrs(cube["strf"].attrs)),
        lambda cube: cube.expand_dims(channel=2).assign(
            strf_status=cube["strf_status"], strf_health=cube["strf_health"], cc_test=cube["cc_test"]
        ),
        pytest.param(lambda cube: cube.assign(attrs=None).drop_attrs(deep=False), marks=pytest.mark.slow),
    ],
    ids=[
        "no status",
        "no metadata",
        "one map of each kind",
        "one band",
        "one lag",
        "no checkpoint",
        "no neuron",
        "no map",
        "linear axis",
        "zeros",
        "channels",
        "no attributes",
    ],
)
def test_a_cube_of_any_kind_makes_a_page(tmp_path, cut):
    page = page_of({"a": cut(planted_cube(architectures=("ln",), seeds=2, n_neurons=2, waveform=False))}, tmp_path)
    assert "At a glance" in page.words


def test_summaries_that_the_cube_holds_are_taken_instead_of_measured_anew(tmp_path):
    cube = planted_cube(architectures=("ln",), seeds=1, n_neurons=2, waveform=False)
    cube["strf_status"][:] = 1
    cube["strf_best_frequency"] = cube["strf_status"].astype(float) * 0 + 777.0
    cube["strf_best_frequency"].attrs = {"units": "Hz", "long_name": "best frequency"}
    page = page_of({"a": cube}, tmp_path)
    assert "median 777 Hz" in page.words
    assert "from the cube's own summaries" in page.words


def large_cube(read: list[tuple[int, ...]]) -> xr.Dataset:
    """300 checkpoints of 1000 neurons; what is read of their maps is noted in ``read``."""
    dask = pytest.importorskip("dask.array")
    small = planted_cube(architectures=("linear", "gru", "lstm"), seeds=100, n_neurons=1, n_lags=10, waveform=False)
    shape = (300, 1000, 24, 10)

    def block(values: np.ndarray, block_info: dict) -> np.ndarray:
        read.append(values.shape)
        return np.broadcast_to(small["strf"].values[0, 0], values.shape) + np.float32(0)

    nothing = dask.zeros(shape, chunks=(1, 50, -1, -1), dtype="float32")
    maps = nothing.map_blocks(block, dtype="float32", meta=np.empty((0,) * 4, "float32"))
    status = np.ones(shape[:2], dtype=np.uint8)
    status[7], status[20:40, 500:] = 2, 0
    health = np.zeros(shape[:2], dtype=np.uint16)
    health[50:150, ::3] = 2
    return xr.Dataset(
        {
            "strf": (("checkpoint", "neuron", "frequency", "lag"), maps, small["strf"].attrs),
            "strf_status": (("checkpoint", "neuron"), status),
            "strf_health": (("checkpoint", "neuron"), health, small["strf_health"].attrs),
        },
        coords={name: coord for name, coord in small.coords.items() if "neuron" not in coord.dims}
        | {"neuron": np.array([f"n{k}" for k in range(1000)], dtype=object)},
        attrs=small.attrs,
    )


def test_a_large_cube_is_measured_in_small_part():
    read: list[tuple[int, ...]] = []
    (entry,) = outcomes({"large": large_cube(read)})
    found = measures_of(entry, choose_measured(entry.best, entry.cube), strf.TOLD)
    assert found.how.startswith("24 of 300 checkpoints, in turn from each architecture")
    assert 1000 < found.maps.sizes["checkpoint"] * found.maps.sizes["neuron"] <= 2400
    assert sum(np.prod(shape[:2]) for shape in read) < 0.1 * 300 * 1000


@pytest.mark.slow
def test_a_large_cube_makes_a_small_page_in_half_a_minute_and_is_read_in_small_part(tmp_path):
    read: list[tuple[int, ...]] = []
    began = time.process_time()
    path = write_report({"large": large_cube(read)}, tmp_path / "report.html")
    assert time.process_time() - began < 30
    assert path.stat().st_size < 15e6
    # what is measured, what is drawn small and what is drawn large are each a tenth at most
    assert sum(np.prod(shape[:2]) for shape in read) < 0.3 * 300 * 1000
    words = Page(path.read_text()).words
    assert "of 300 checkpoints, in turn from each architecture, passing over those without maps; all neurons" in words
    assert "6 of 300 checkpoints, in turn from each architecture" in words


def test_agreement_over_seeds_is_high_where_the_truth_is_shared(page):
    rows = [row for row in page.rows if row[:1] in (["linear"], ["gru"]) and "of" in row[-1]]
    assert len(rows) == 2
    assert all(float(row[3]) > 0.7 for row in rows)
    assert rows[1][:3] == ["linear", "9", "3"]


def test_a_cube_in_a_zarr_store_makes_the_same_page(tmp_path):
    cube = planted_cube(architectures=("ln",), seeds=2, n_neurons=2, waveform=False)
    store = tmp_path / "store.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr has no settled word for texts yet
        cube.to_zarr(store, group="planted", zarr_format=3, consolidated=False)
    opened = xr.open_zarr(store, group="planted", consolidated=False)
    told: list[tuple[str, float]] = []
    shown = {"progress": lambda words, share: told.append((words, share))}
    stored, memory = (page_of({"planted": one}, tmp_path, **shown).rows for one in (opened, cube))
    assert stored == memory
    assert told == [("page: planted strf", 0.0)] * 2


def test_no_cohort_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no cohort"):
        write_report({}, tmp_path / "report.html")


def test_elements_escape_what_is_not_markup():
    assert element("p", "<b>", class_="a'b") == '<p class="a&#x27;b">&lt;b&gt;</p>'
    assert "&lt;td&gt;" in table(["a"], [["<td>x</td>"]])
    assert cell(12) == '<td class="number">12</td>'
    assert element("p", "a\u202eb\x9bc\td\ne") == "<p>a\ufffdb\ufffdc    d\ne</p>"  # neither direction marks nor C1
    assert "\ufffd" in document("t", "\udc80").decode("utf-8")  # half a character, as file names may hold


def test_every_heading_has_a_place_in_the_contents(page):
    links = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    anchors = [value for name, value in page.attributes if name == "id" and not value.startswith("browse-")]
    assert len(anchors) == len(set(anchors)) == len(links)
    assert links == set(anchors)


def test_numbers_too_large_for_the_page_say_so_in_their_place():
    assert "data:text/csv" in numbers("few", {"map": np.arange(9)})
    many = numbers("many", {"map": np.arange(LARGEST_NUMBERS)})
    assert "data:" not in many
    # each number up to 199,999 and a line's end, under one word
    size = sum(len(str(number)) + 1 for number in range(LARGEST_NUMBERS)) + len("map\n")
    assert f"too large for the page: {size / 1000:,.0f} kB" in many


def test_numbers_behind_a_figure_lie_beside_it(page, cube):
    files = {name: pd.read_csv(io.BytesIO(b64decode(source.partition(",")[2]))) for name, source in page.files.items()}
    told = files["planted-strf-population.csv"].set_index(["checkpoint", "neuron"])
    direct = strf_summaries(cube["strf"], ["best_frequency"])["best_frequency"]
    usable = ((cube["strf_status"] == 1) & (cube["strf_health"] == 0)).values
    found = told["best_frequency"].to_xarray().reindex_like(direct).values
    np.testing.assert_allclose(found[usable], direct.values[usable], rtol=1e-4)
    assert np.isnan(found[~usable]).all()
    assert (files["planted-strf-standing.csv"]["standing"] == "failed").sum() == 9


def test_maps_of_a_figure_are_there_as_numbers(page, cube):
    files = {name: pd.read_csv(io.BytesIO(b64decode(source.partition(",")[2]))) for name, source in page.files.items()}
    grid = files["planted-strf-maps.csv"].set_index(["checkpoint", "neuron", "frequency"]).sort_index()
    assert list(grid.columns[:2]) == ["lag 0 ms", "lag 10 ms"]
    for checkpoint, neuron in {key[:2] for key in grid.index}:
        direct = cube["strf"].sel(checkpoint=checkpoint, neuron=neuron)
        np.testing.assert_allclose(grid.loc[checkpoint, neuron], direct, rtol=1e-4)
    seeds = files["planted-strf-seeds.csv"]
    assert set(seeds["checkpoint"]) == set(cube["checkpoint"].values.tolist())
    assert seeds["neuron"].nunique() == 1
    assert seeds.set_index("checkpoint").loc["gru-seed2"].filter(like="lag").isna().all(axis=None)  # it failed
    untrusted = files["planted-strf-untrusted.csv"].set_index(["map", "frequency"]).sort_index()
    np.testing.assert_allclose(
        untrusted.loc["linear-seed0 n001"], cube["strf"].sel(checkpoint="linear-seed0", neuron="n001"), rtol=1e-4
    )
    places = files["planted-strf-places.csv"].set_index("neuron")
    assert {"depth_um", "site", "best_frequency median"} <= set(places.columns)
    assert {"rate", "scale"} & {name.split()[0] for name in files["planted-strf-ripple.csv"].columns}


def test_the_methods_are_told_from_the_cube(page, cube):
    assert "receptive fields of 9 neurons in 6 trained models (linear, gru)" in page.words
    assert "gradmap-pipeline 0.1.0 (torch 2.13.0)" in page.words
    assert "24 bands from 100 to 8k Hz and 20 lags up to 190 ms" in page.words
    # 54 maps, of which 9 failed, 5 are pending, and two have flags
    assert "Of 54 maps 40 were computed; left out of all numbers: 2 (" in page.words
    assert "@software{gradmap_pipeline," in page.words


def test_what_is_cited_is_what_the_citation_file_says():
    cited = yaml.safe_load((Path(__file__).resolve().parents[2] / "CITATION.cff").read_text(encoding="utf-8"))
    title, author, _ = CITED["gradmap-pipeline"]
    assert title == cited["title"]
    assert author.strip("{}") == cited["authors"][0]["name"]


def test_absolute_paths_lose_their_folders_on_the_page(tmp_path):
    cube = planted_cube(architectures=("linear",), seeds=2, n_neurons=2, waveform=False)
    cube.attrs |= {
        "config": 'store = "/home/ann/secret/gradmaps.zarr"\nother = "s3://lab/maps.zarr"\n',
        "failures": failed("linear-seed1", "load", "/home/ann/secret/best.pt: 3 / 4 of C:\\Users\\ann\\a.pt is cut"),
    }
    words = page_of({"a": cube}, tmp_path).words
    assert 'store = "…/gradmaps.zarr"\nother = "s3://lab/maps.zarr"' in words
    assert "…/best.pt: 3 / 4 of …/a.pt is cut" in words
    assert not re.search(r"\bann\b|secret", words)
