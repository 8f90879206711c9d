"""What is deleted, cut, exchanged or left over is seen, and never made worse by the next start."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.plan.config import ConfigError
from pipeline.plan.shards import shards_of
from pipeline.store.cube import create_or_extend
from pipeline.store.digests import entry_digests, values_digest
from pipeline.store.reader import open_cube, open_cubes
from pipeline.store.record import record
from pipeline.store.regions import label, write_region
from pipeline.store.status import store_status
from pipeline.store.summaries import write_summaries
from pipeline.store.verify import verify_store
from tests.store.conftest import compute
from tests.store.plans import HEALTH, arrays, checkpoint, cohort, done, numbers, pending_shards, run_plan

SMALL = ["strf_status", "strf_health", "strf_memory_90", "strf_frame", "strf_digest", "probe_response"]
LABELS = ["checkpoint", "neuron", "frequency", "lag", "stimulus", "waveform_lag", "area", "seed"]


@pytest.fixture
def plan(store):
    """A finished run with metadata and a summary."""
    entries = [checkpoint(name, seed=seed) for seed, name in enumerate("abc")]
    made = run_plan(store, cohort(checkpoints=entries, neuron_metadata={"area": ("A1", "A1", "belt", "belt", "A1")}))
    create_or_extend(made, health_flags=HEALTH)
    compute(made)
    cube = open_cube(store)
    best = cube.strf.max(("frequency", "lag")).rename("strf_best").assign_attrs(map="strf")
    write_summaries(store, {"speech": best.to_dataset()})
    assert verify_store(store).sound
    return made


def start(plan):
    create_or_extend(plan, health_flags=HEALTH)


def assert_whole(plan, store):
    found = verify_store(store)
    assert found.sound, found.lines()
    assert found.complete
    cube = open_cube(store)
    assert list(cube.checkpoint.values) == ["a", "b", "c"]
    for shard in (shard for shard in shards_of(plan) if shard.map == "strf"):
        region = shard.region(plan.cohorts[0].map_plan("strf"))
        np.testing.assert_array_equal(cube.strf.isel(region)[0], numbers(plan, shard))


@pytest.mark.parametrize("name", SMALL)
def test_a_lost_chunk_of_the_driver_is_seen_refused_and_mended_by_requeueing(plan, store, name):
    shutil.rmtree(store / "speech" / name / "c")
    found = verify_store(store)
    assert not found.sound
    assert any(finding.kind == "missing" and finding.name == name for finding in found.findings)
    with pytest.raises(ConfigError, match=rf"speech/{name}/c/0.* gone.*verify --requeue"):
        start(plan)
    verify_store(store, requeue=True)
    start(plan)
    compute(plan)
    assert_whole(plan, store)


@pytest.mark.parametrize("name", LABELS)
def test_lost_labels_are_seen_and_written_anew_where_the_plan_knows_them(plan, store, name):
    shutil.rmtree(store / "speech" / name / "c")
    found = verify_store(store)
    assert not found.sound
    assert name in {finding.name for finding in found.findings}
    start(plan)
    assert_whole(plan, store)


def test_a_reader_is_refused_what_is_gone(plan, store, tmp_path):
    for name in [*SMALL, *LABELS, "strf_best"]:
        if name != "strf_digest":  # which no reader looks at
            shutil.move(store / "speech" / name / "c", tmp_path / "aside")
            with pytest.raises(ValueError, match=rf"speech/{name}\b.* gone.*gradmap (run|verify)"):
                open_cube(store).load()
            shutil.move(tmp_path / "aside", store / "speech" / name / "c")
    open_cube(store).load()


def test_a_reader_is_told_which_array_cannot_be_decoded(plan, store):
    for name in ("strf", "strf_health", "neuron", "area", "strf_best"):
        path = next(path for path in (store / "speech" / name / "c").rglob("*") if path.is_file())
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        # Text is read when the cube is opened by the oldest xarray, and when it is asked for by others.
        what = rf"(a label of the cohort speech|speech/{name})" if name in ("neuron", "area") else f"speech/{name}"
        with pytest.raises(ValueError, match=rf"{what} of .* cannot be decoded .*gradmap (run|verify)"):
            open_cube(store).load()
        path.write_bytes(whole)


def test_a_reader_is_told_whose_map_is_gone_however_it_asks(plan, store):
    (store / "speech/strf/c/1/1/0/0").unlink()
    cube, told = open_cube(store), r"speech/strf/c/1/1/0/0 .*checkpoint b, neuron n002 to n003.*verify --requeue"
    for part in (
        {},
        {"checkpoint": 1},
        {"neuron": 2, "lag": 1},
        {"checkpoint": 1, "neuron": 3, "frequency": 0, "lag": 2},
        {"neuron": slice(None, None, -1)},
        {"checkpoint": [2, 1], "neuron": [4, 3]},
    ):
        with pytest.raises(ValueError, match=told):
            cube.strf.isel(part).load()
    assert cube.strf.isel(checkpoint=[0, 2]).notnull().all()
    assert cube.strf[1, [0, 1, 4]].notnull().all()
    verify_store(store, requeue=True)
    assert int(open_cube(store).strf.isnull().any(("frequency", "lag")).sum()) == 2


def test_labels_from_elsewhere_are_refused_to_a_reader(plan, store):
    zarr.open_array(store, path="speech/frequency", mode="r+")[...] = [100.0, 200.0, 400.0, 801.0]
    with pytest.raises(ValueError, match=r"speech/frequency of .* is not what was recorded"):
        open_cube(store)


def test_the_other_cohorts_do_not_pass_for_all(store, tmp_path):
    create_or_extend(run_plan(store, cohort(), cohort(("w",), name="another", n_neurons=2)), health_flags=HEALTH)
    for lost in ("speech/zarr.json", "speech"):
        shutil.move(store / lost, tmp_path / "aside")
        for door in (open_cube, open_cubes, store_status):
            with pytest.raises(ValueError, match=r"cohorts speech are gone .*gradmap run.*verify --requeue"):
                door(store)
        shutil.move(tmp_path / "aside", store / lost)
        assert len(open_cubes(store)) == 2
    shutil.rmtree(store / "speech")
    verify_store(store, requeue=True)
    assert list(open_cubes(store)) == ["another"]


def test_labels_from_elsewhere_are_seen_and_never_built_upon(plan, store):
    array = zarr.open_array(store, path="speech/neuron", mode="r+")
    array[...] = np.array(["n001", "n000", "n002", "n003", "n004"], dtype=object)
    assert {finding.name for finding in verify_store(store).findings if finding.kind == "damaged"} == {"neuron"}
    others = run_plan(store, cohort(checkpoints=[checkpoint("d")], n_neurons=5))
    start(others)  # it names the same neurons, and so knows them
    assert list(open_cube(store).neuron.values) == [f"n00{i}" for i in range(5)]


def test_labels_that_the_plan_does_not_know_are_refused(plan, store):
    shutil.rmtree(store / "speech/seed/c")
    without = run_plan(store, cohort(checkpoints=[checkpoint("c", seed=2)]))  # a and b are known by the store alone
    with pytest.raises(ConfigError, match=r"speech/seed of .* is not what was recorded"):
        start(without)
    start(plan)
    assert list(open_cube(store).seed.values) == [0, 1, 2]


def test_a_lost_summary_is_seen_and_taken_out_by_requeueing(plan, store):
    shutil.rmtree(store / "speech/strf_best/c")
    assert {finding.name for finding in verify_store(store).findings} == {"strf_best"}
    start(plan)
    verify_store(store, requeue=True)
    assert "strf_best" not in open_cube(store)
    assert_whole(plan, store)


def test_a_lost_cohort_is_seen_and_made_anew(plan, store):
    shutil.rmtree(store / "speech")
    found = verify_store(store)
    assert not found.sound
    assert "the whole cohort 'speech'" in found.lines()[0]
    start(plan)
    compute(plan)
    assert_whole(plan, store)


def test_chunks_without_their_group_are_never_adopted(plan, store):
    (store / "speech/zarr.json").unlink()
    found = verify_store(store)
    assert [(finding.kind, finding.name) for finding in found.findings] == [("missing", "zarr.json")]
    others = cohort(("other", "a"))
    for refused in (plan, run_plan(store, others)):
        with pytest.raises(ConfigError, match=r"speech/zarr.json of .* is gone"):
            start(refused)
    verify_store(store, requeue=True)
    assert_whole(plan, store)


def test_chunks_that_nothing_describes_are_never_adopted(plan, store):
    (store / "speech/zarr.json").unlink()
    (store / "zarr.json").unlink()
    with pytest.raises(ConfigError, match=r"not empty"):
        start(plan)


@pytest.mark.parametrize("name", ["strf", "strf_status", "neuron", "waveform_health"])
def test_a_lost_description_is_refused_by_a_start_and_restored_by_requeueing(plan, store, name):
    (store / "speech" / name / "zarr.json").unlink()
    assert name in {finding.name for finding in verify_store(store).findings}
    with pytest.raises(ConfigError, match=rf"speech/{name}/zarr.json of .* is gone"):
        start(plan)
    verify_store(store, requeue=True)
    assert_whole(plan, store)


def test_leftovers_of_a_killed_start_are_not_taken_for_the_next_ones(store):
    plan = run_plan(store, cohort(("a",)))
    start(plan)
    group = json.loads((store / "speech/zarr.json").read_text())
    group["attributes"]["state"] = "creating"
    (store / "speech/zarr.json").write_text(json.dumps(group))
    stray = store / "speech/strf_health/c/1/0"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"left over")

    (store / "speech/strf_health/zarr.json").unlink(missing_ok=True)
    start(plan)
    assert not stray.exists()
    compute(plan)
    assert verify_store(store).complete


# Exchanged and overwritten


def test_maps_exchanged_between_checkpoints_are_seen_and_mended(plan, store):
    one, other = store / "speech/strf/c/0/0/0/0", store / "speech/strf/c/2/0/0/0"
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)
    found = verify_store(store)
    assert found.counts() == {"damaged": 2}
    assert {finding.checkpoint for finding in found.findings} == {"a", "c"}
    assert verify_store(store, requeue=True).requeued == 2
    compute(plan)
    assert_whole(plan, store)


@pytest.mark.parametrize("name", ["strf_health", "strf_memory_99", "strf_frame", "waveform_oldest_share"])
def test_numbers_overwritten_beside_a_map_are_seen_and_mended(plan, store, name):
    array = zarr.open_array(store, path=f"speech/{name}", mode="r+")
    array[1, 0] = 3
    found = verify_store(store)
    assert found.counts() == {"damaged": 1 if name.startswith("strf") else 2}  # a region holds one of the two sounds
    verify_store(store, requeue=True)
    compute(plan)
    assert_whole(plan, store)
    assert float(zarr.open_array(store, path=f"speech/{name}")[1].ravel()[0]) != 3


# Descriptions cut short


def descriptions(store):
    return sorted(str(path.relative_to(store)) for path in store.rglob("zarr.json"))


@pytest.mark.parametrize("how", ["cut", "empty", "list", "gibberish", "no attributes"])
def test_a_spoiled_description_is_named_by_every_door(plan, store, how):
    content = {"empty": b"", "list": b"[1, 2]", "gibberish": b'{"node_type": "array", "attributes": {}}'}
    content["no attributes"] = b'{"zarr_format": 3, "node_type": "group", "attributes": null}'
    for name in descriptions(store):
        if how == "gibberish" and name.count("/") < 2:
            continue
        path = store / name
        sound = path.read_bytes()
        path.write_bytes(content.get(how, sound[: len(sound) // 2]))
        with pytest.raises(ConfigError, match=name):
            start(plan)
        with pytest.raises(ConfigError, match=name):
            verify_store(store)
        for door in (open_cube, store_status, lambda where: pending_shards(run_plan(where))):
            try:
                door(store)
            except ConfigError as error:
                assert name in str(error)  # noqa: PT017  (a door that does not need the file may open)
        path.write_bytes(sound)
    assert_whole(plan, store)


@pytest.mark.parametrize("key", ["fingerprints", "failures", "label_digests"])
def test_a_spoiled_attribute_is_named(plan, store, key):
    for path in (store / "zarr.json", store / "speech/zarr.json"):
        document = json.loads(path.read_text())
        entry = document["consolidated_metadata"]["metadata"]["speech"] if path.parent == store else document
        entry["attributes"][key] = '{"a": '
        path.write_text(json.dumps(document))
    door = store_status if key == "failures" else lambda _: start(plan)
    with pytest.raises(ConfigError, match=rf"attribute '{key}' in speech/zarr.json"):
        door(store)


# Moved away


def test_a_store_that_is_moved_away_is_not_begun_anew(plan, store):
    shard = shards_of(plan)[0]
    values = label(plan, shard, arrays(plan, shard))
    write_region(plan, shard, values)
    store.rename(store.with_name("moved.zarr"))
    with pytest.raises(OSError, match=r"gradmaps\.zarr"):
        write_region(plan, shard, values)
    with pytest.raises(OSError, match="no store of gradmaps"):
        record(plan, [done(plan, shard)])
    with pytest.raises(ValueError, match="no store of gradmaps"):
        open_cube(store)
    assert not store.exists()
    assert xr.open_zarr(store.with_name("moved.zarr"), group="speech").strf.notnull().all()


def test_the_digest_of_numbers_does_not_depend_on_the_bits_of_a_nan_or_the_order_of_bytes():
    values = np.array([1.0, np.nan])
    other = np.array([1.0, -np.nan])
    assert values.tobytes() != other.tobytes()
    assert values_digest(values) == values_digest(other)
    regions = [xr.Variable(("neuron",), entry) for entry in (values, other, values.astype(">f8"))]
    first, *rest = (entry_digests(("neuron",), {"x": region}) for region in regions)
    for digests in rest:
        np.testing.assert_array_equal(digests, first)


def test_the_digest_of_labels_is_that_of_their_text_in_utf_8():
    labels = np.array(["café", "b"], dtype=object)
    assert values_digest(labels) == hashlib.blake2b('["café", "b"]'.encode(), digest_size=8).hexdigest()
