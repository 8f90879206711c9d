"""Many recording sites from ten lines of config: commands print a screen, and the page folds what it shows of each."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from pipeline import open_cube
from pipeline.numbers.pooling import pooled_reliability
from tasks.cli import main
from tests.inputs.lab import HERE

SITES, NEURONS, BANDS = 12, 3, 4

CONFIG = f"""store = "gradmaps.zarr"
[[cohort]]
name = "{{site}}"
frame_ms = 10.0
lags = 3
frequencies_hz = [100.0, 200.0, 300.0, 400.0]
neurons = "sites/{{site}}/neurons.csv"
checkpoints = [{{path = "sites/{{site}}/{{architecture}}-seed{{seed}}", class = "{HERE}.Cells"}}]
[maps.strf]
kind = "strf"
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Linear models of a few neurons at each site, two architectures and two seeds; one file is broken."""
    folder = tmp_path_factory.mktemp("sites")
    for site in range(SITES):
        place = folder / f"sites/site{site:02d}"
        names = "".join(f"{site:02d}-{neuron}\n" for neuron in range(NEURONS))
        for architecture in ("flat", "steep"):
            generator = torch.Generator().manual_seed(site)
            shared = torch.randn(NEURONS, BANDS, generator=generator)
            for seed in range(2):
                here = place / f"{architecture}-seed{seed}"
                here.mkdir(parents=True)
                noise = torch.randn(NEURONS, BANDS, generator=generator)
                save_file(
                    {"readout.weight": shared + 0.3 * noise, "readout.bias": torch.zeros(NEURONS)},
                    here / "model.safetensors",
                )
        (place / "neurons.csv").write_text("neuron\n" + names)
    (folder / "sites/site05/steep-seed1/model.safetensors").write_bytes(b"broken")
    (folder / "run.toml").write_text(CONFIG)
    assert main(["run", "--local", str(folder / "run.toml")]) == 3
    return folder


def printed(capsys, *arguments, status=0):
    assert main([str(argument) for argument in arguments]) == status
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 60, len(lines)
    return lines


def test_plan_and_status_of_many_sites_print_a_screen_and_open_one(lab, capsys):
    told = "\n".join(printed(capsys, "plan", lab / "run.toml", status=3))
    assert "site00 " in told
    assert "cannot be loaded: site05/steep-seed1" in told
    told = printed(capsys, "plan", lab / "run.toml", "--cohort", "site03", status=3)
    assert told[0].startswith("site03: 4 checkpoints (Cells), 3 neurons")
    told = printed(capsys, "status", lab / "run.toml", status=3)
    rows = [line.split() for line in told]
    assert ["all", "12", "48", "36", "strf", "47", "1", "0"] in rows
    # what failed comes before what is done
    assert rows[[row[:1] for row in rows].index(["all"]) + 1] == ["site05", "4", "3", "strf", "3", "1", "0"]
    assert ["site07", "4", "3", "strf", "4", "0", "0"] in [
        line.split() for line in printed(capsys, "status", lab / "run.toml", "--cohort", "site07")
    ]
    assert main(["status", str(lab / "run.toml"), "--cohort", "nowhere"]) == 2


def test_reliability_of_many_sites_counts_each_cohort_once(lab, tmp_path, capsys):
    store = lab / "gradmaps.zarr"
    told = printed(capsys, "reliability", store, "--shuffles", 20, "--json", tmp_path / "found.json")
    rows = {line.split()[0]: line.split() for line in told if line.startswith(("flat", "steep"))}
    means = []
    for site in range(SITES):
        cube = open_cube(store, f"site{site:02d}")
        maps = cube["strf"].isel(checkpoint=np.flatnonzero(cube["architecture"].values == "flat")).values
        means.append(np.median([np.corrcoef(*maps[:, n].reshape(2, -1))[0, 1] for n in range(NEURONS)]))
    low, high = stats.t.interval(0.95, SITES - 1, np.mean(means), stats.sem(means))
    assert [float(rows["flat"][at]) for at in (3, 4, 6)] == pytest.approx([np.mean(means), low, high], rel=6e-3)
    assert rows["flat"][1:3] == ["12", "36"]
    assert rows["steep"][1:3] == ["11", "33"]
    groups = json.loads((tmp_path / "found.json").read_text())["groups"]
    assert len(groups) == 2 * SITES


def test_a_comparison_of_many_sites_is_a_screen_and_all_of_it_on_request(lab, capsys):
    store = lab / "gradmaps.zarr"
    told = printed(capsys, "compare", store, "flat", "steep", "--measure", "best_frequency")
    assert [line.split()[0] for line in told if line.startswith("site")] == [f"site{n:02d}" for n in range(SITES)]
    assert not any("± checkpoints" in line for line in told)
    assert main(["compare", str(store), "flat", "steep", "--measure", "best_frequency", "--details"]) == 0
    assert "± checkpoints" in capsys.readouterr().out
    assert main(["compare", str(store), "flat", "round"]) == 2
    refused = capsys.readouterr().err
    reason = (
        "12 cohorts (site00, site01, site02, ...) have no checkpoint whose architecture is round (they are flat, steep)"
    )
    assert refused.count(reason) == 1


def test_groups_are_matched_by_label_in_whatever_order_cohorts_have_them():
    def table(*rows):
        columns = ["architecture", "neurons", "median", "specific", "above_chance", "ceiling"]
        return pd.DataFrame(rows, columns=columns)

    found = pooled_reliability(
        {
            "a": table(("x", 2, 0.5, 0.1, 2, 0.9), ("y", 3, 0.1, 0.0, 0, 0.4)),
            "b": table(("y", 1, 0.3, 0.2, 1, 0.6), ("x", 4, 0.7, 0.3, 1, 0.7)),
            "c": table(("x", 0, np.nan, np.nan, 0, np.nan)),
        }
    ).set_index("architecture")
    assert found.loc["x", ["cohorts", "neurons", "above_chance"]].tolist() == [2, 6, 3]
    assert found.loc["x", ["median", "specific", "ceiling"]].tolist() == pytest.approx([0.6, 0.2, 0.8])
    half = stats.t.ppf(0.975, 1) * 0.1
    assert found.loc["x", ["low", "high"]].tolist() == pytest.approx([0.6 - half, 0.6 + half])
    assert found.loc["y", "median"] == pytest.approx(0.2)


def test_the_page_of_many_sites_has_an_overview_and_folds_each(lab, tmp_path, capsys):
    store = shutil.copytree(lab / "gradmaps.zarr", tmp_path / "gradmaps.zarr")
    assert main(["summarise", str(store)]) == 0
    assert main(["report", str(store)]) == 0
    page = (tmp_path / "gradmaps.html").read_text()
    assert page.count("<summary>Cohort site") == SITES
    assert page.count("<img") == 1
    assert f"Gradmaps: {SITES} cohorts" in page
    median = open_cube(store, "site03")["strf_best_frequency"].load().median().item()
    row = page[page.index('<a href="#cohort3">site03</a>') :].partition("</tr>")[0]
    assert f"{median:.3g}" in row
    assert '<details open=""' not in page.partition("What was run")[0]
