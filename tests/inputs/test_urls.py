"""The same checkpoints, sounds and tables behind URLs."""

import json

import numpy as np
import pytest
import soundfile
import torch

from pipeline.inputs.checkpoints import CheckpointError, discover, load_checkpoint
from pipeline.inputs.neuron_table import read_neuron_table
from pipeline.inputs.stimuli import describe_sounds, read_sound, read_spectrograms
from pipeline.plan.config import ConfigError
from tests.inputs.lab import HERE, cells, describe_checkpoint, refused, run_config, save_best, save_folder, source

fsspec = pytest.importorskip("fsspec")
CELLS = f"{HERE}.Cells"
CONFIG = {"_model_class": "Cells", "n_bands": 4, "n_cells": 3}


@pytest.fixture
def bucket(tmp_path):
    """Uploads a folder into fsspec's store in memory, and gives its URL."""
    memory = fsspec.filesystem("memory")

    def upload(folder) -> str:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                memory.pipe(f"/bucket/{path.relative_to(folder)}", path.read_bytes())
        return "memory://bucket"

    yield upload
    memory.rm("/bucket", recursive=True)


def test_folders_and_files_behind_a_url_are_the_same_checkpoints(tmp_path, bucket):
    trained = cells(seed=4)
    save_folder(tmp_path / "up" / "runs" / "a", trained, CONFIG, {"neurons": ["x", "y", "z"]})
    save_best(tmp_path / "up" / "runs" / "b", trained)
    (tmp_path / "up" / "runs" / "README.md").write_text("")
    url = bucket(tmp_path / "up")
    config = run_config(tmp_path, {"path": f"{url}/runs/*", "class": CELLS})
    sources = discover(config, config.cohort[0])
    assert [entry.id for entry in sources] == ["a", "b"]
    assert sources[0].location.startswith("memory://")
    local = describe_checkpoint(source(tmp_path / "up" / "runs" / "a", **{"class": CELLS}))
    remote = describe_checkpoint(sources[0])
    assert remote.error is None
    assert remote.neurons == ("x", "y", "z")
    assert remote.fingerprint == local.fingerprint
    for entry in sources:
        assert torch.equal(load_checkpoint(entry).readout.weight, trained.readout.weight)
    config = run_config(tmp_path, {"path": f"{url}/runs/b/best.pt", "class": CELLS})
    (only,) = discover(config, config.cohort[0])
    assert only.id == "b"
    assert torch.equal(load_checkpoint(only).readout.weight, trained.readout.weight)


def test_a_factory_gets_a_copy_on_disk(tmp_path, bucket):
    trained = cells(seed=4)
    save_best(tmp_path / "up" / "a", trained)
    url = bucket(tmp_path / "up")
    for location in (f"{url}/a", f"{url}/a/best.pt"):
        model = load_checkpoint(location, factory=f"{HERE}:build")
        assert torch.equal(model.readout.weight, trained.readout.weight)


def test_what_is_missing_behind_a_url_is_told(tmp_path, bucket):
    save_best(tmp_path / "up" / "a", cells())
    url = bucket(tmp_path / "up")
    assert "cannot be read (FileNotFoundError" in refused(describe_checkpoint(source(f"{url}/b", **{"class": CELLS})))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(f"{url}/b/best.pt", class_name=CELLS)
    config = run_config(tmp_path, {"path": f"{url}/c-*"})
    with pytest.raises(ConfigError, match=r"'memory://bucket/c-\*'\) matches nothing"):
        discover(config, config.cohort[0])


def test_stimuli_and_tables_behind_a_url_are_read(tmp_path, bucket):
    up = tmp_path / "up"
    up.mkdir()
    soundfile.write(up / "tone.wav", np.array([0, 2**14], dtype=np.int16), 8000)
    np.savez(up / "s.npz", a=np.ones((2, 3), "f4"))
    (up / "n.csv").write_text("neuron\na\n")
    url = bucket(up)
    (sound,) = describe_sounds([f"{url}/*.wav"])
    assert (sound.name, sound.samples) == ("tone", 2)
    np.testing.assert_array_equal(read_sound(sound.path), [0.0, 0.5])
    np.testing.assert_array_equal(read_spectrograms([f"{url}/s.npz"])["a"], np.ones((2, 3)))
    assert read_neuron_table(f"{url}/n.csv") == (("a",), {})


@pytest.fixture
def s3(monkeypatch):
    """A bucket behind a real S3 API on loopback, with credentials in the environment alone."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "AKIDINPUTS",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="lab")
    yield client
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_checkpoints_in_a_bucket_are_the_same_as_on_disk(tmp_path, s3):
    trained = cells(seed=4)
    save_folder(tmp_path / "a", trained, CONFIG, {"neurons": ["x", "y", "z"]})
    save_best(tmp_path / "b", trained)
    for path in sorted(tmp_path.rglob("*.*")):
        s3.put_object(Bucket="lab", Key=f"runs/{path.relative_to(tmp_path)}", Body=path.read_bytes())
    s3.put_object(Bucket="lab", Key="runs/c/best.pt", Body=b"")
    config = run_config(tmp_path, {"path": "s3://lab/runs/*", "class": CELLS})
    sources = discover(config, config.cohort[0])
    assert [entry.location for entry in sources] == [f"s3://lab/runs/{name}" for name in "abc"]
    described = [describe_checkpoint(entry) for entry in sources]
    assert [entry.error is None for entry in described] == [True, True, False]
    assert "is empty" in refused(described[2])
    assert described[0].neurons == ("x", "y", "z")
    local = describe_checkpoint(source(tmp_path / "a", **{"class": CELLS}))
    assert described[0].fingerprint == local.fingerprint
    model = load_checkpoint(sources[1], fingerprint=described[1].fingerprint)
    assert torch.equal(model.readout.weight, trained.readout.weight)

    # What another process writes is seen, and what is not there is told.
    s3.put_object(Bucket="lab", Key="runs/d/best.pt", Body=(tmp_path / "b" / "best.pt").read_bytes())
    assert len(discover(config, config.cohort[0])) == 4
    s3.put_object(Bucket="lab", Key="runs/b/best.pt", Body=b"changed")
    with pytest.raises(CheckpointError, match="is not what it was when the run was planned"):
        load_checkpoint(sources[1], fingerprint=described[1].fingerprint)
    for path in ("s3://lab/nothing/*", "s3://no-such-bucket/*"):
        config = run_config(tmp_path, {"path": path, "class": CELLS})
        with pytest.raises(ConfigError, match=r"matches nothing|cannot be listed") as refusal:
            discover(config, config.cohort[0])
        assert "hunter2" not in str(refusal.value)
    assert "FileNotFoundError" in refused(describe_checkpoint(source("s3://lab/nowhere", **{"class": CELLS})))


def test_an_unknown_kind_of_url_names_the_extra(tmp_path):
    config = run_config(tmp_path, {"path": "nosuch://bucket/*"})
    with pytest.raises(ConfigError, match=r"package for nosuch:// paths.*gradmap-pipeline\[s3\]"):
        discover(config, config.cohort[0])


def test_a_password_never_reaches_a_message():
    for url in ("s3://KEY:hunter2@bucket/a", "https://host/best.pt?sig=hunter2"):
        with pytest.raises(ConfigError) as refusal:
            load_checkpoint(url, class_name=CELLS)
        assert "hunter2" not in str(refusal.value)
        with pytest.raises(ConfigError) as refusal:
            read_neuron_table(url)
        assert "hunter2" not in str(refusal.value)
        assert json.dumps(str(refusal.value))
