"""The files that describe a cluster and a job, against Ray's own rules."""

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_cluster_file_is_valid_against_rays_own_schema(cluster):
    import ray.autoscaler

    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_no_task_runs_on_the_head_and_workers_start_from_none(cluster):
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    workers = [entry for name, entry in types.items() if name != cluster["head_node_type"]]
    assert all(entry["min_workers"] == 0 and entry["resources"]["GPU"] == 1 for entry in workers)
    assert any("InstanceMarketOptions" in entry["node_config"] for entry in workers)
    assert any("InstanceMarketOptions" not in entry["node_config"] for entry in workers)
    assert cluster["max_workers"] > 2
    assert 10 <= cluster["idle_timeout_minutes"] <= 15


def test_cluster_states_token_authentication_and_keeps_the_dashboard_at_home(cluster):
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in " ".join(cluster["head_start_ray_commands"])
    text = (ROOT / "cluster.yaml").read_text().lower()
    assert not any(word in text for word in ("aws_secret", "access_key", "ray_auth_token=", "password"))


def test_versions_of_ray_in_the_image_and_the_set_up_agree(cluster):
    version = cluster["docker"]["image"].partition(":")[2].partition("-")[0]
    assert any(f'"ray[default]=={version}"' in command for command in cluster["setup_commands"])


@pytest.mark.filterwarnings("ignore:.*gitwildmatch:DeprecationWarning")
def test_a_job_carries_the_packages_but_no_data():
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    refusals = get_excludes_from_ignore_files(ROOT, include_gitignore=True)

    def left_out(name):
        return any(refuses(ROOT / name) for refuses in refusals)

    carried = ("pipeline/demo/build.py", "pipeline/inputs/checkpoints.py", "tasks/cli.py", "run.toml", "my_lab.py")
    assert not [name for name in carried if left_out(name)]
    data = ("checkpoints/a/model.safetensors", "demo/run.toml", "gradmaps.zarr/zarr.json", "lab/sounds/a.wav")
    bulk = (".git/config", ".venv/bin/python", "notebooks/query_cubes.ipynb", "tests/conftest.py")
    assert [name for name in (*data, *bulk) if not left_out(name)] == []


def test_the_batch_file_is_a_sound_script_and_keeps_its_token_off_the_command_line():
    path = ROOT / "docs" / "gradmap.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert "#SBATCH --signal=B:TERM@60" in lines
    assert "--include-dashboard=false" in text
    assert not [line for line in text.splitlines() if "ray start" in line and "TOKEN" in line]
    assert "export RAY_AUTH_MODE=token" in text
