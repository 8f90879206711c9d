"""`gradmap demo`: a planted population, models trained on it, and what the maps recover of it."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.plan.config import load_config
from tasks.commands.run import compute
from tasks.finished import COMPLETE, Finished
from tasks.parsing import new_command
from tasks.progress import Stages
from tasks.terminal import tell, tell_table

#: Where the demo goes unless told otherwise.
DEFAULT_FOLDER = Path("gradmap-demo")


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    summary = "train small models on planted neurons, and find their fields again"
    parser = new_command(commands, demo, summary, "demo", "demo somewhere --quick --local")
    words = f"where to work (default: {DEFAULT_FOLDER})"
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help=words)
    parser.add_argument("--seed", type=int, default=0, help="draws the population and the sounds (default: 0)")
    parser.add_argument("--quick", action="store_true", help="fewer sounds and epochs: seconds, less accurate")
    parser.add_argument("--local", action="store_true", help="compute the maps in this process, without Ray")


def demo(arguments: argparse.Namespace) -> Finished:
    """Simulate, train, compute maps and compare them with the truth."""
    from pipeline.demo.build import prepare_demo

    with Stages() as stages:
        files = prepare_demo(arguments.folder, seed=arguments.seed, quick=arguments.quick, report=stages.show)
    ended = compute(load_config(files.config), local=arguments.local)
    ended.tell()
    recovered: dict[str, Any] = {}
    if ended.status == COMPLETE:
        recovered = _compare(files)
        tell(f"the run was described by {files.config}; next:")
        tell(f"    gradmap report {files.config}    # a page about its maps")
        tell(f"    gradmap status {files.config}    # what the cube holds")
    return ended.finished({"config": str(files.config), **recovered})


def _compare(files: Any) -> dict[str, Any]:
    """Planted against recovered numbers, neuron by neuron, printed, with pictures of the maps."""
    from pipeline.demo.recovery import recovery
    from pipeline.numbers.catalogue import measure
    from pipeline.store.reader import open_cubes

    labels = [neuron.label for neuron in files.population.neurons]
    scores: list[tuple[object, ...]] = []
    best: tuple[float, str, Any] | None = None
    for cohort, cube in open_cubes(files.store).items():
        if "strf" not in cube:
            continue
        for checkpoint in cube["checkpoint"].values:
            maps = cube["strf"].sel(checkpoint=checkpoint, neuron=labels).transpose("neuron", "frequency", "lag")
            rows = recovery(files.population, maps.values, cube["frequency"].values, cube["lag"].values)
            measures = zip(rows, measure(maps, "best_frequency").values, measure(maps, "latency").values, strict=True)
            rows = tuple(
                replace(row, recovered_best_frequency_hz=float(frequency), recovered_latency_ms=float(latency))
                for row, frequency, latency in measures
            )
            score = float(np.median([row.correlation for row in rows]))
            scores.append((cohort, str(checkpoint), round(score, 3)))
            if best is None or score > best[0]:
                best = score, str(checkpoint), rows
    assert best is not None
    tell(f"\nplanted and recovered, {best[1]} (the checkpoint with the highest median correlation):")
    tell_table(_HEADER, [_recovered(row) for row in best[2]])
    tell("\nmedian correlation of the maps with the planted fields:")
    tell_table(("cohort", "checkpoint", "correlation"), scores)
    moved = _compare_moving(files)
    picture = _draw(files, labels)
    tell(f"\nthe cube lies in {files.store}, a picture of its maps in {picture}")
    return {"best": best[1], "recovered": list(best[2]), "moving": moved, "picture": str(picture)}


def _compare_moving(files: Any) -> list[dict[str, Any]]:
    """What was planted of the fields that move and what the dynamic STRFs found of it, printed."""
    from pipeline.demo.nonlinear import planted_dynamic_strfs
    from pipeline.numbers.dynamic import complexity, gain_change
    from pipeline.store.reader import open_cube

    cube = open_cube(files.store, "demo_moving").isel(checkpoint=0).sel(neuron=list(files.moving.labels))
    lags = cube.sizes["lag"]
    with np.load(files.folder / "spectrograms.npz") as sounds:
        planted = [planted_dynamic_strfs(files.moving, sounds[name], skip=lags) for name in cube["stimulus"].values]
    columns = {
        "complexity_planted": np.mean([complexity(maps) for maps in planted], axis=0),
        "complexity_found": cube["dstrf_complexity"].mean("stimulus").values,
        "gain_change_planted": np.mean([gain_change(maps) for maps in planted], axis=0),
        "gain_change_found": cube["dstrf_gain_change"].mean("stimulus").values,
    }
    rows = [
        {
            "neuron": label,
            "nonlinearity": kind,
            **{name: round(float(values[at]), 3) for name, values in columns.items()},
        }
        for at, (label, kind) in enumerate(zip(files.moving.labels, files.moving.kinds, strict=True))
    ]
    tell("\nfields that move with the sound, planted and found:")
    header = ("neuron", "nonlinearity", "complexity planted", "found", "gain change planted", "found")
    tell_table(header, [tuple(row.values()) for row in rows])
    return rows


_HEADER = ("neuron", "BF (Hz) planted", "recovered", "latency (ms) planted", "recovered", "sign", "recovered", "r")


def _recovered(row: Any) -> tuple[object, ...]:
    return (
        row.neuron,
        round(row.planted_best_frequency_hz),
        "none" if np.isnan(row.recovered_best_frequency_hz) else round(row.recovered_best_frequency_hz),
        round(row.planted_latency_ms, 1),
        round(row.recovered_latency_ms, 1),
        f"{row.planted_polarity:+.0f}",
        f"{row.recovered_polarity:+.0f}",
        round(row.correlation, 2),
    )


def _draw(files: Any, neurons: list[str]) -> Path:
    """A picture of the maps of a few neurons in every checkpoint of the first cohort."""
    from pipeline.pictures.plots.grids import plot_grid
    from pipeline.store.reader import open_cubes

    cube = next(iter(open_cubes(files.store).values()))
    figure = plot_grid(cube, "strf", neurons=neurons[:6]).get_figure(root=True)
    assert figure is not None
    path = files.folder / "maps.png"
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path
