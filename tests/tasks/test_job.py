"""`ray job submit` for real, against a head that the test starts on loopback."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.tasks.trouble import GRADMAP, files_of, lab_with_our_names, write_lab

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment_of_a_head(home: str) -> dict[str, str]:
    """This process's environment for a Ray with a token and a home folder of its own, and for those who join it."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return others | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": home,
    }


@pytest.fixture(scope="module")
def head():
    """The environment in which jobs reach a Ray head with a token of its own."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    gcs, dashboard, client = free_ports(3)
    environment = environment_of_a_head(folder) | {
        # As in an activated environment: the job's `python` is this one.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "GCS": f"127.0.0.1:{gcs}",
    }
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        f"--temp-dir={folder}/ray",
        "--node-ip-address=127.0.0.1",
    ]
    command += [f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", "--object-store-memory=100000000"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 600
        # The job server answers some seconds before there is an agent that takes a job.
        probe = [RAY, "job", "submit", "--no-wait", "--", "true"]
        while subprocess.run(probe, env=environment, capture_output=True, check=False).returncode:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.5)
        yield environment
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def ray_job(environment, *words):
    return subprocess.run(
        [RAY, "job", *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture
def lab(tmp_path):
    """A lab outside the working folder: its module, and a function that writes a config over two checkpoints."""
    source = (ROOT / "tests/run/lab.py").read_text()
    where = f"import pipeline, os; open({str(tmp_path)!r} + f'/from-{{os.getpid()}}', 'w').write(pipeline.__file__)\n"
    (tmp_path / "my_lab.py").write_text(source + "\n\n" + where)

    def write(name):
        folder = tmp_path / name
        config = write_lab(folder, healthy=2)
        config.write_text(config.read_text().replace("tests.run.lab.LabModel", "my_lab.LabModel"))
        return config

    write.environment = json.dumps({"env_vars": {"PYTHONPATH": str(tmp_path)}})
    return write


def test_a_job_from_a_folder_with_modules_of_our_names_computes_what_one_process_computes(head, tmp_path):
    folder, store = lab_with_our_names(tmp_path), tmp_path / "cube.zarr"
    done = ray_job(head, "submit", "--working-dir", str(folder), "--", "gradmap", "run", "run.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gradmap: everything written: 6 shards done (6 of them now)" in done.stdout
    store.rename(tmp_path / "job.zarr")
    alone = subprocess.run([GRADMAP, "run", "--local", "run.toml"], cwd=folder, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert files_of(tmp_path / "job.zarr") == files_of(store)


@pytest.mark.slow
def test_a_job_from_a_checkout_brings_its_own_packages_to_the_workers(head, lab, tmp_path):
    config = lab("job")
    done = ray_job(
        head,
        *("submit", "--working-dir", ".", "--runtime-env-json", lab.environment),
        *("--", "python", "-m", "tasks", "run", str(config), "--report", f"{tmp_path}/run.json"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gradmap: everything written: 6 shards done (6 of them now)" in done.stdout
    assert json.loads((tmp_path / "run.json").read_text())["exit_status"] == 0
    # Driver and workers used the packages that came with the job.
    origins = {path.read_text() for path in tmp_path.glob("from-*")}
    assert origins
    assert all("working_dir_files" in origin for origin in origins), origins
    alone = lab("alone")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "tasks", "run", "--local", str(alone)]
    subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True)
    assert files_of(tmp_path / "job/cube.zarr") == files_of(tmp_path / "alone/cube.zarr")


@pytest.mark.slow
def test_a_job_whose_config_is_refused_fails_with_the_reason_in_its_log(head, tmp_path):
    done = ray_job(head, "submit", "--working-dir", ".", "--", "python", "-m", "tasks", "run", f"{tmp_path}/no.toml")
    assert done.returncode == 1
    assert "no.toml cannot be read" in done.stdout
    assert "exit code 2" in done.stdout + done.stderr


def test_a_client_without_the_token_is_refused(head):
    environment = {name: value for name, value in head.items() if name != "RAY_AUTH_TOKEN"}
    done = ray_job(environment | {"RAY_AUTH_MODE": "disabled"}, "list")
    assert done.returncode != 0
    done = ray_job(environment | {"RAY_AUTH_TOKEN": "0" * 64}, "list")
    assert done.returncode != 0


@pytest.mark.slow
def test_a_stopped_job_has_recorded_what_it_did_and_the_next_one_goes_on(head, lab, tmp_path):
    config = lab("stopped")
    module = tmp_path / "my_lab.py"
    module.write_text(module.read_text() + SLOWLY)
    submission = ["submit", "--working-dir", ".", "--runtime-env-json", lab.environment, "--no-wait"]
    sent = ray_job(head, *submission, "--submission-id", "lab-1", "--", "python", "-m", "tasks", "run", str(config))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    store = tmp_path / "stopped/cube.zarr"
    until = time.monotonic() + 600
    while not list(store.glob("lab/strf/c/*/*/*/*")):
        assert time.monotonic() < until, ray_job(head, "logs", "lab-1").stdout + ray_job(head, "status", "lab-1").stdout
        time.sleep(0.1)
    ray_job(head, "stop", "lab-1")
    log = ray_job(head, "logs", "lab-1").stdout
    assert "gradmap: stopped, and can be continued:" in log
    assert "(exit status 4)" in log
    # A used submission id is refused, so the next attempt has a number of its own.
    refused = ray_job(head, *submission, "--submission-id", "lab-1", "--", "true")
    assert refused.returncode != 0
    done = ray_job(
        head, *submission[:-1], "--submission-id", "lab-2", "--", "python", "-m", "tasks", "run", str(config)
    )
    assert done.returncode == 0, done.stdout
    assert "6 shards done" in done.stdout
    assert "(6 of them now)" not in done.stdout


SLOWLY = """
import time
_forward = LabModel.forward
LabModel.forward = lambda self, x: (time.sleep(0.4), _forward(self, x))[1]
"""
