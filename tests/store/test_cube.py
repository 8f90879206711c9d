"""Cubes are laid out once, grow without being touched, and refuse what would not belong."""

import hashlib
import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.plan.config import ConfigError
from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import shards_of
from pipeline.store.checkpoint_rows import ABSENT, align
from pipeline.store.cube import create_or_extend
from pipeline.store.reader import open_cube
from pipeline.store.record import record
from pipeline.store.status import store_status
from pipeline.store.verify import verify_store
from pipeline.words import COMPANIONS, DONE, NOT_COMPUTED
from tests.store.conftest import compute
from tests.store.plans import HEALTH, checkpoint, cohort, pending_shards, run_plan, strf, waveform


def digests(folder: Path, pattern: str = "*") -> dict[str, tuple[str, int]]:
    """Bytes and time of change of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }


def lay_out(plan):
    create_or_extend(plan, health_flags=HEALTH)
    return align(plan)


# The layout


def test_plain_xarray_opens_labelled_cubes_without_a_warning(finished, store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for about_itself in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", about_itself)
        cube = xr.open_zarr(store, group="speech")
        tree = xr.open_datatree(store)
    assert cube.strf.dims == ("checkpoint", "neuron", "frequency", "lag")
    assert cube.waveform.dims == ("checkpoint", "stimulus", "neuron", "waveform_lag")
    assert cube.strf.dtype == np.float32
    assert list(cube.checkpoint.values) == ["a", "b", "c"]
    assert cube.frequency.attrs["units"] == "Hz"
    assert cube.lag.attrs["units"] == cube.waveform_lag.attrs["units"] == "ms"
    assert all(cube[dim].attrs["long_name"] for dim in cube.dims)
    assert cube.strf.sel(checkpoint="b", neuron="n002").notnull().all()
    assert list(tree.children) == ["speech"]
    assert tree["speech"].to_dataset().strf.shape == cube.strf.shape


def test_every_map_has_status_health_and_companions(laid_out, store):
    cube = open_cube(store)
    for name, dims in (("strf", ("checkpoint", "neuron")), ("waveform", ("checkpoint", "neuron", "stimulus"))):
        assert cube[f"{name}_status"].dims == dims
        assert cube[f"{name}_status"].dtype == np.uint8
        for ending, (dtype, units, _, _) in COMPANIONS.items():
            assert cube[f"{name}_{ending}"].dims == dims
            assert cube[f"{name}_{ending}"].dtype == dtype
            assert cube[f"{name}_{ending}"].attrs.get("units", "") == units
        assert cube[f"{name}_health"].attrs["flag_masks"] == [*HEALTH.values(), NOT_COMPUTED]
        assert cube[f"{name}_health"].attrs["flag_meanings"] == " ".join((*HEALTH, "not_computed"))
    assert cube.probe_response.dims == ("checkpoint", "neuron")


def test_attributes_say_what_the_numbers_are_and_where_they_come_from(finished, store):
    cube = xr.open_zarr(store, group="speech")
    for key in ("kind", "objective", "baseline", "space", "units", "long_name", "sign"):
        assert cube.strf.attrs[key]
    assert cube.waveform.attrs["objective"] == "peak"
    assert "raises the response" in cube.attrs["sign"]
    assert json.loads(cube.attrs["fingerprints"])["b"] == "print of b"
    assert json.loads(cube.attrs["routes"])["strf"] == {"a": "factored", "b": "factored", "c": "factored"}
    assert json.loads(cube.attrs["versions"])["zarr"] == zarr.__version__
    assert cube.attrs["config"] == finished.config.text


def test_attributes_are_plain_values_that_any_format_can_hold(finished, store):
    cube = xr.open_zarr(store, group="speech")
    for where in (cube.attrs, *(cube[name].attrs for name in cube.variables)):
        for value in where.values():
            assert isinstance(value, (str, int, float)) or all(isinstance(entry, int) for entry in value)


def test_metadata_become_coordinates_by_their_type(store):
    entries = [
        checkpoint("a", seed=1, arch="ln", mixed=1, flag=True),
        checkpoint("b", arch="gru", mixed="two"),
        checkpoint("c", seed=float("nan")),
    ]
    metadata = {"area": ("A1", "A1", "belt", None, "A1"), "depth um": (10, 20, 30, 40, 50), "lag": (1.5,) * 5}
    lay_out(run_plan(store, cohort(checkpoints=entries, neuron_metadata=metadata)))
    cube = xr.open_zarr(store, group="speech")
    np.testing.assert_array_equal(cube.coords["seed"], [1.0, np.nan, np.nan])
    assert list(cube.coords["arch"].fillna("?").values) == ["ln", "gru", "?"]
    assert list(cube.coords["mixed"].fillna("?").values) == ["1", "two", "?"]
    np.testing.assert_array_equal(cube.coords["flag"], [1.0, np.nan, np.nan])
    assert list(cube.coords["area"].fillna("?").values) == ["A1", "A1", "belt", "?", "A1"]
    assert cube.coords["depth_um"].dtype == np.int64
    np.testing.assert_array_equal(cube.coords["neuron_lag"], [1.5] * 5)  # "lag" is an axis


def test_names_of_metadata_never_collide_with_those_of_the_cube(store):
    odd = {"zarr.json": 1, "../up": 2, "strf": 3, "strf_status": 4, "é": 5, "Seed": 6, "seed": 7, "": 8}
    lay_out(run_plan(store, cohort(checkpoints=[checkpoint("a", **odd)])))
    cube = xr.open_zarr(store, group="speech")
    found = {cube[name].attrs["source"]: float(cube[name][0]) for name in cube.coords if "source" in cube[name].attrs}
    assert found == odd
    assert cube.strf.dims == ("checkpoint", "neuron", "frequency", "lag")
    assert not (store.parent / "up").exists()


def test_lists_per_neuron_become_variables_with_nan_where_a_checkpoint_has_none(store):
    entries = [replace(checkpoint("a"), per_neuron={"cc_test": (0.1, 0.2, 0.3, 0.4, 0.5)}), checkpoint("b")]
    lay_out(run_plan(store, cohort(checkpoints=entries)))
    cube = open_cube(store)
    assert cube.cc_test.dims == ("checkpoint", "neuron")
    np.testing.assert_array_equal(cube.cc_test.sel(checkpoint="a"), [0.1, 0.2, 0.3, 0.4, 0.5])
    assert cube.cc_test.sel(checkpoint="b").isnull().all()


def test_a_map_over_the_sum_of_neurons_has_no_neuron_axis(store):
    entry = strf(5, 4, 3, neurons="sum")
    plan = lay_out(run_plan(store, cohort(("a", "b"), maps=[entry])))
    assert len(compute(plan)) == 2
    assert pending_shards(plan) == []
    cube = open_cube(store)
    assert cube.strf_status.dims == ("checkpoint",)
    assert cube.strf.notnull().all()


def test_every_array_carries_a_checksum_and_none_is_of_fixed_width_text(finished, store):
    for path in store.rglob("zarr.json"):
        metadata = json.loads(path.read_text())
        if metadata["node_type"] == "array":
            assert {"name": "zstd", "configuration": {"level": 0, "checksum": True}} in metadata["codecs"], path
            assert isinstance(metadata["data_type"], str), path


def test_status_lies_in_few_objects(store):
    names = [f"m{i:03d}" for i in range(70)]
    plan = lay_out(run_plan(store, cohort(names, n_neurons=3, block=1, stimuli=())))
    compute(plan)
    assert len(list((store / "speech" / "strf" / "c").rglob("*"))) > 210
    assert len([path for path in (store / "speech" / "strf_status" / "c").rglob("*") if path.is_file()]) == 3


# Growth


def test_new_checkpoints_are_appended_and_old_objects_untouched(finished, store):
    before = digests(store / "speech" / "strf" / "c") | digests(store / "speech" / "waveform" / "c")
    plan = run_plan(store, cohort(("d", "b", "e", "a", "c")))
    create_or_extend(plan, health_flags=HEALTH)
    plan = align(plan)
    assert [entry.id for entry in plan.cohort("speech").checkpoints] == ["a", "b", "c", "d", "e"]
    assert {shard.checkpoint for shard in pending_shards(plan)} == {3, 4}
    compute(plan)
    after = digests(store / "speech" / "strf" / "c") | digests(store / "speech" / "waveform" / "c")
    assert {key: after[key] for key in before} == before
    assert list(xr.open_zarr(store, group="speech").checkpoint.values) == ["a", "b", "c", "d", "e"]
    assert open_cube(store).strf.notnull().all()


def test_a_second_start_with_the_same_plan_touches_nothing_but_the_lease(finished, store):
    before = digests(store)
    create_or_extend(finished, health_flags=HEALTH)
    assert digests(store) == before
    assert pending_shards(finished) == []


def test_checkpoints_that_the_config_no_longer_names_are_kept(finished, store):
    plan = run_plan(store, cohort(("d", "b")))
    create_or_extend(plan, health_flags=HEALTH)
    plan = align(plan)
    kept = {entry.id: entry for entry in plan.cohort("speech").checkpoints}
    assert list(kept) == ["a", "b", "c", "d"]
    assert kept["a"].source.location == ABSENT
    assert not kept["a"].usable
    assert {shard.checkpoint for shard in pending_shards(plan)} == {3}
    compute(plan)
    cube = open_cube(store)
    assert cube.strf.notnull().all()
    assert json.loads(cube.attrs["fingerprints"])["a"] == "print of a"


def test_an_unaligned_plan_gives_the_same_pending_shards(finished, store):
    plan = run_plan(store, cohort(("d", "c", "a")))
    create_or_extend(plan, health_flags=HEALTH)
    assert pending_shards(plan) == pending_shards(align(plan))


def test_a_plan_whose_checkpoints_the_store_lacks_is_not_aligned(finished, store):
    with pytest.raises(ValueError, match=r"no place for z.*create_or_extend"):
        align(run_plan(store, cohort(("a", "z"))))
    with pytest.raises(ValueError, match=r"no place for z.*create_or_extend"):
        pending_shards(run_plan(store, cohort(("a", "z"))))


def test_a_map_added_to_the_config_is_a_new_variable(store):
    plan = lay_out(run_plan(store, cohort(stimuli=())))
    compute(plan)
    before = digests(store / "speech" / "strf")
    entries = cohort(stimuli=()).maps
    both = [*entries, waveform(("hiss", "word"), 5, 6)]
    plan = lay_out(run_plan(store, cohort(("a", "b", "c", "d"), maps=both)))
    shards = pending_shards(plan)
    assert {shard.map for shard in shards if shard.checkpoint < 3} == {"waveform"}
    compute(plan)
    after = digests(store / "speech" / "strf")
    assert {key: after[key] for key in before if "/c/" in key or key.startswith("c/")} == {
        key: before[key] for key in before if "/c/" in key or key.startswith("c/")
    }
    cube = xr.open_zarr(store, group="speech")
    assert list(cube.stimulus.values) == ["hiss", "word"]
    assert cube.waveform.notnull().all()


def test_metadata_of_new_checkpoints_join_those_of_old_ones(store):
    compute(lay_out(run_plan(store, cohort(checkpoints=[checkpoint("a", seed=1, arch="ln")]))))
    new = [checkpoint("a", seed=1, arch="ln"), checkpoint("b", seed="two", arch=3, site="x")]
    lay_out(run_plan(store, cohort(checkpoints=new)))
    cube = xr.open_zarr(store, group="speech")
    assert list(cube.coords["seed"].values) == ["1", "two"]
    assert list(cube.coords["arch"].values) == ["ln", "3"]
    assert list(cube.coords["site"].fillna("?").values) == ["?", "x"]
    assert cube.strf.sel(checkpoint="a").notnull().all()


def test_whole_numbers_and_truth_values_keep_their_type_until_one_is_missing(store):
    first = [checkpoint("a", seed=1, deep=True), checkpoint("b", seed=2, deep=False)]
    lay_out(run_plan(store, cohort(checkpoints=first)))
    cube = open_cube(store)
    assert cube.seed.dtype == np.int64
    assert cube.deep.dtype == bool
    lay_out(run_plan(store, cohort(checkpoints=[*first, checkpoint("c", deep=True)])))
    np.testing.assert_array_equal(open_cube(store).seed, [1.0, 2.0, np.nan])
    assert list(open_cube(store).deep.values) == [True, False, True]


def test_corrected_metadata_of_checkpoints_are_taken_over_and_those_of_others_kept(store):
    def entry(name, scores, **scalars):
        return replace(checkpoint(name, **scalars), per_neuron={} if scores is None else {"cc_test": scores})

    old = [entry("a", (0.1,) * 5, seed=1, note="x"), entry("b", None, seed=2), entry("c", (0.3,) * 5, seed=3)]
    compute(lay_out(run_plan(store, cohort(checkpoints=old))))
    broken = replace(checkpoint("c"), error="not readable today")
    new = [entry("a", (0.2,) * 5, seed=10), broken, entry("d", (0.4,) * 5, seed=4)]
    for _ in range(2):  # a second start finds the store as the first one left it
        lay_out(run_plan(store, cohort(checkpoints=new)))
        cube = open_cube(store)
        assert store_status(store)[0].state == "ready"
        assert list(cube.checkpoint.values) == ["a", "b", "c", "d"]
        assert list(cube.seed.values) == [10, 2, 3, 4]
        assert "note" not in cube.variables
        np.testing.assert_array_equal(cube.cc_test[:, 0], [0.2, np.nan, 0.3, 0.4])
        assert cube.strf[:3].notnull().all()
    assert verify_store(store).sound


# What nothing was computed under


@pytest.mark.parametrize(
    ("plan", "reads"),
    [
        (lambda: changed_map(objective="peak"), lambda cube: cube.strf.attrs["objective"] == "peak"),
        (lambda: cohort(lags=4), lambda cube: cube.strf.sizes["lag"] == 4),
        (lambda: cohort(stimuli=("hiss", "song")), lambda cube: list(cube.stimulus.values) == ["hiss", "song"]),
        (lambda: replace(cohort(), neurons=("n000", "n001", "n002", "n003", "x")), lambda cube: "x" in cube.neuron),
    ],
)
def test_a_mended_typo_is_no_changed_setting_while_nothing_is_done(laid_out, store, plan, reads):
    record(laid_out, [ShardReport(shard, Problem("compute", "no")) for shard in pending_shards(laid_out)[:2]])
    plan = lay_out(run_plan(store, plan()))
    compute(plan)
    assert reads(open_cube(store))
    assert verify_store(store).complete


def test_only_the_map_of_which_nothing_is_done_is_laid_out_anew(laid_out, store):
    first = [shard for shard in pending_shards(laid_out) if shard.map == "strf"]
    compute(laid_out, first)
    record(laid_out, [ShardReport(pending_shards(laid_out)[0], Problem("compute", "no such sound"))])
    before = digests(store / "speech/strf")
    plan = lay_out(run_plan(store, cohort(stimuli=("hiss", "song", "word"))))
    assert digests(store / "speech/strf") == before
    assert {shard.map for shard in pending_shards(plan)} == {"waveform"}
    assert store_status(store)[0].failures == ()
    compute(plan)
    assert list(open_cube(store).stimulus.values) == ["hiss", "song", "word"]
    assert verify_store(store).complete
    other = cohort(maps=[strf(5, 4, 3, block=2, objective="peak"), waveform(("hiss", "song", "word"), 5, 6)])
    with pytest.raises(ConfigError, match="objective"):
        lay_out(run_plan(store, other))


def test_corrected_metadata_of_neurons_are_taken_over(store):
    compute(lay_out(run_plan(store, cohort(neuron_metadata={"area": ("A1",) * 5}))))
    lay_out(run_plan(store, cohort(neuron_metadata={"area": ("A1",) * 4 + ("belt",), "site": (1,) * 5})))
    cube = open_cube(store)
    assert list(cube.area.values) == ["A1"] * 4 + ["belt"]
    assert list(cube.site.values) == [1] * 5
    assert cube.strf.notnull().all()


def test_several_cohorts_lie_side_by_side(store):
    plan = lay_out(run_plan(store, cohort(), cohort(("w",), name="speech_wav", n_neurons=2)))
    compute(plan)
    assert sorted(xr.open_datatree(store).children) == ["speech", "speech_wav"]
    with pytest.raises(ValueError, match=r"2 cohorts.*speech, speech_wav"):
        open_cube(store)
    assert open_cube(store, "speech_wav").sizes["neuron"] == 2


def test_a_cohort_can_join_a_store_that_has_others(finished, store):
    before = digests(store / "speech")
    plan = lay_out(run_plan(store, cohort(("w",), name="later")))
    compute(plan)
    assert digests(store / "speech") == before
    assert sorted(xr.open_datatree(store).children) == ["later", "speech"]


# Refusals


def changed_map(**settings):
    """The usual cohort with one setting of its first map changed."""
    return cohort(maps=[strf(5, 4, 3, **{"block": 2, **settings}), waveform(("hiss", "word"), 5, 6)])


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (changed_map(objective="peak"), ["maps.strf", "objective", '"peak"', '"last"']),
        (
            cohort(maps=[cohort().maps[0], waveform(("hiss", "word"), 5, 6, objective={"frame": 3})]),
            ["maps.waveform", "objective", "frame"],
        ),
        (changed_map(baseline="silence", silence_level=-1.0), ["baseline", '"silence"', '"null"']),
        (changed_map(space="prefiltered"), ["space", "prefiltered"]),
        (changed_map(block=5), ["storage.object_mib", "[1, 5, 4, 3]", "[1, 2, 4, 3]"]),
        (changed_map(inner=1), ["storage.chunks_per_object"]),
        (cohort(maps=[replace(entry, precision="float64") for entry in cohort().maps]), ["precision", '"float64"']),
        (cohort(lags=4), ["lag", "4 values", "3 values", "lags and frame_ms"]),
        (cohort(frame_ms=5.0), ["lag", "frame_ms"]),
        (cohort(frequencies_hz=(100.0, 200.0, 400.0, 801.0)), ["frequency", "801", "Hz", "frequencies_hz"]),
        (cohort(neurons=("n000", "n001", "n002", "n003", "x")), ["neuron", "position 4: x against n004"]),
        (cohort(n_neurons=6), ["neuron", "6 labels", "5 labels"]),
        (cohort(stimuli=("hiss", "song")), ["stimulus", "song against word"]),
        (cohort(checkpoints=[checkpoint("a", fingerprint="other"), checkpoint("b")]), ["weights", "a", "another id"]),
    ],
)
def test_other_settings_than_those_of_the_store_are_refused_before_anything_changes(finished, store, plan, named):
    before = digests(store)
    with pytest.raises(ConfigError) as caught:
        create_or_extend(run_plan(store, plan), health_flags=HEALTH)
    for words in (*named, "another"):
        assert words in str(caught.value)
    assert digests(store) == before


def test_a_store_of_another_format_is_refused_by_every_door(finished, store):
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"]["gradmap_format"] = 1
    (store / "zarr.json").write_text(json.dumps(root))
    doors = [
        lambda: create_or_extend(finished, health_flags=HEALTH),
        lambda: open_cube(store),
        lambda: store_status(store),
        lambda: verify_store(store),
        lambda: record(finished, [ShardReport(shards_of(finished)[0], Problem("load", "x"))]),
    ]
    for door in doors:
        with pytest.raises(ConfigError, match="has format 1 and this version of gradmap-pipeline reads format 2"):
            door()


def test_health_bits_of_another_meaning_are_refused(finished, store):
    with pytest.raises(ConfigError, match="one bit would mean two things"):
        create_or_extend(finished, health_flags={"truncated": 1, "all_zero": 2})


def test_a_refused_cohort_keeps_the_others_from_being_laid_out(finished, store):
    plan = run_plan(store, cohort(("n",), name="new"), cohort(lags=9))
    with pytest.raises(ConfigError):
        create_or_extend(plan, health_flags=HEALTH)
    assert not (store / "new").exists()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"not empty \(thesis.tex\)"):
        create_or_extend(run_plan(tmp_path), health_flags=HEALTH)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused_as_a_store(tmp_path):
    (tmp_path / "x.zarr").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        create_or_extend(run_plan(tmp_path / "x.zarr"), health_flags=HEALTH)


def test_a_zarr_store_of_something_else_is_refused(store):
    xr.Dataset({"x": ("t", [1.0])}).to_zarr(store, consolidated=False)
    before = digests(store)
    with pytest.raises(ConfigError, match="did not make"):
        create_or_extend(run_plan(store), health_flags=HEALTH)
    assert digests(store) == before


def test_a_lost_root_is_made_again_around_its_cohorts(finished, store):
    before = digests(store / "speech")
    (store / "zarr.json").unlink()
    create_or_extend(finished, health_flags=HEALTH)
    assert digests(store / "speech") == before
    assert open_cube(store).strf.notnull().all()


def test_labels_that_stand_twice_are_refused(store):
    with pytest.raises(ConfigError, match=r"checkpoints of the same name \(a\)"):
        create_or_extend(run_plan(store, cohort(("a", "b", "a"))), health_flags=HEALTH)
    assert not store.exists()


def test_a_changed_checkpoint_of_which_nothing_is_done_is_replaced(laid_out, store):
    shards = pending_shards(laid_out)
    of_b = [shard for shard in shards if shard.checkpoint == 1]
    compute(laid_out, [shard for shard in shards if shard.checkpoint != 1])
    record(laid_out, [ShardReport(shard, Problem("load", "truncated")) for shard in of_b])
    assert pending_shards(laid_out) == []
    entries = [checkpoint("a"), checkpoint("b", fingerprint="mended", arch="ln"), checkpoint("c")]
    plan = run_plan(store, cohort(checkpoints=entries))
    create_or_extend(plan, health_flags=HEALTH)
    plan = align(plan)
    assert pending_shards(plan) == of_b
    compute(plan)
    cube = open_cube(store)
    assert (cube.strf_status == DONE).all()
    assert json.loads(cube.attrs["fingerprints"])["b"] == "mended"
    assert list(cube.arch.fillna("?").values) == ["?", "ln", "?"]
    assert store_status(store)[0].failures == ()


def test_a_checkpoint_that_does_not_load_today_keeps_its_maps(finished, store):
    entries = [checkpoint("a"), checkpoint("b", fingerprint="unreadable", error="truncated"), checkpoint("c")]
    create_or_extend(run_plan(store, cohort(checkpoints=entries)), health_flags=HEALTH)
    cube = open_cube(store)
    assert (cube.strf_status == DONE).all()
    assert json.loads(cube.attrs["fingerprints"])["b"] == "print of b"


def test_credentials_do_not_reach_the_attributes(store):
    text = 'store = "s3://AKIAKEY:topsecret@bucket/x"\naws_secret_access_key = "topsecret"\n'
    lay_out(run_plan(store, text=text))
    assert not [path for path in store.rglob("zarr.json") if "topsecret" in path.read_text()]


DOORS = {"ours": open_cube, "xarray": partial(xr.open_zarr, group="speech", chunks=None)}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_missing_text_is_missing_and_no_group_of_its_own(store, door):
    areas = ("A1", None, "belt", None, "A1")
    entries = (checkpoint("a", arch="ln"), checkpoint("b"), checkpoint("c", arch="gru"))
    compute(lay_out(run_plan(store, cohort(checkpoints=entries, neuron_metadata={"area": areas}))))
    cube = door(store)
    assert cube.area.isnull().values.tolist() == [False, True, False, True, False]
    maps = cube.strf.load()
    by_area = maps.groupby("area").mean("neuron")
    assert by_area.area.values.tolist() == ["A1", "belt"]
    np.testing.assert_allclose(by_area.sel(area="A1"), maps[:, [0, 4]].mean("neuron"))
    assert list(cube.groupby("arch").groups) == ["gru", "ln"]
    kept = cube.where(cube.area == "A1", drop=True)
    assert kept.neuron.values.tolist() == maps.neuron.values[[0, 4]].tolist()
    assert kept.strf.shape == (3, 2, *maps.shape[2:])
    assert cube.dropna("checkpoint", subset=["arch"]).checkpoint.values.tolist() == ["a", "c"]
    assert cube.area.sel(neuron=maps.neuron.values[2]).item() == "belt"
    assert cube.set_index(neuron="area").strf.sel(neuron="belt").shape == (3, *maps.shape[2:])


def test_text_that_was_written_without_a_mark_of_what_is_missing_is_read_alike(store):
    compute(lay_out(run_plan(store, cohort(neuron_metadata={"area": ("A1", None, "belt", None, "A1")}))))
    group = zarr.open_group(store / "speech", mode="r+")
    del group["area"].attrs["missing_value"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr says of these metadata that they are not in the format's text yet
        zarr.consolidate_metadata(store)
    assert list(open_cube(store).groupby("area").groups) == ["A1", "belt"]


def test_text_that_is_whole_carries_no_mark(store):
    compute(lay_out(run_plan(store, cohort(neuron_metadata={"area": ("A1",) * 5}))))
    assert "missing_value" not in open_cube(store).area.encoding | open_cube(store).area.attrs
