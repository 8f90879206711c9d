"""Every end of a command is one of the four, with a message for people and nothing that steers their terminal."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.plan.config import ConfigError
from pipeline.run.crash_note import left_behind_at, noted
from pipeline.store.lease import LeaseLostError
from tasks.cli import main
from tasks.errors import end, ending_of
from tasks.os_exit import exits_refused
from tests.run.lab import entry, write_checkpoint
from tests.tasks.trouble import write_lab

ROOT = Path(__file__).resolve().parents[2]
STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def caught(error):
    """The error as it arrives: with the traceback of where it was raised."""
    try:
        raise error
    except BaseException as arrived:
        return arrived


def from_our_code():
    from pipeline.numbers.tables import check_table_path

    try:
        check_table_path("table.xls")
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "status", "foreseen"),
    [
        (ConfigError("no"), 2, True),
        (from_our_code(), 2, True),
        (FileNotFoundError(2, "not there", "x"), 2, True),
        (PermissionError(13, "not allowed", "x"), 2, True),
        (OSError(28, "no space left"), 4, True),
        (ConnectionResetError("gone"), 4, True),
        (MemoryError(), 4, True),
        (KeyboardInterrupt(), 4, True),
        (SystemExit(0), 4, True),
        (LeaseLostError("taken over"), 4, True),
        (ValueError("of a library, or a bug"), 4, False),
        (KeyError("site"), 4, False),
        (ZeroDivisionError("division by zero"), 4, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_an_exception_ends_with_2_where_something_must_be_mended_first_and_with_4_otherwise(error, status, foreseen):
    ended = ending_of(caught(error))
    assert (ended.status, ended.foreseen) == (status, foreseen)


def test_what_nobody_foresaw_leaves_its_report_in_a_file_and_no_secret_in_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = caught(RuntimeError("lost s3://someone:verysecret@bucket/cube"))
    assert end(error, ["status", "s3://someone:verysecret@bucket/cube"]) == 4
    printed = capsys.readouterr()
    (report,) = tmp_path.glob("gradmap-report-*.txt")
    assert printed.out == ""
    assert str(report) in printed.err
    assert "Traceback" not in printed.err
    assert printed.err.splitlines()[-1] == "gradmap: stopped, and can be continued (exit status 4)"
    assert "in caught" in report.read_text()
    assert "verysecret" not in printed.err + report.read_text()


@pytest.mark.parametrize("command", [("status",), ("run", "--local"), ("--help",)], ids=lambda words: words[0])
def test_a_reader_who_stops_reading_does_not_change_how_a_command_ends(tmp_path, command):
    config = write_lab(tmp_path, healthy=2)
    assert main(["run", "--local", str(config)]) == 0
    words = [*command, *([] if command == ("--help",) else [str(config)])]
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # before the first line, which is worse than after it
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert not re.search("Traceback|Error|Exception|gradmap:", errors)


def test_a_gpu_of_this_machine_is_refused_at_once_where_torch_sees_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = write_lab(tmp_path, healthy=1)
    assert main(["run", "--local", "--gpus", "1", str(config)]) == 2
    assert "asks for a GPU of this machine" in capsys.readouterr().err
    assert not (tmp_path / "cube.zarr").exists()


@pytest.mark.parametrize("share", ["-1", "nan", "inf", "half"])
def test_a_share_of_a_gpu_is_a_number_that_is_not_negative(tmp_path, capsys, share):
    assert main(["run", "--local", f"--gpus={share}", "run.toml"]) == 2
    assert "--gpus" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://head:10001"])
def test_a_url_in_the_place_of_a_clusters_address_is_refused_before_anything(tmp_path, capsys, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert main(["run", str(write_lab(tmp_path, healthy=1))]) == 2
    told = capsys.readouterr().err
    assert f"RAY_ADDRESS in the environment is {address}" in told
    assert "host:port" in told
    assert not (tmp_path / "cube.zarr").exists()


@pytest.mark.parametrize(
    ("trouble", "call"),
    [
        ("exit", "sys.exit(0)"),
        ("exit at once", "os._exit(0)"),
        ("interrupt", "it raised KeyboardInterrupt by itself, and nobody pressed Ctrl-C"),
    ],
)
def test_a_model_that_asks_the_process_to_end_fails_alone(tmp_path, capsys, trouble, call):
    config = write_lab(tmp_path, {"exits": trouble}, healthy=2)
    ends = os._exit
    assert main(["plan", str(config)]) == 3
    assert main(["run", "--local", str(config)]) == 3
    assert os._exit is ends
    told = capsys.readouterr().out
    assert "6 shards done (6 of them now), 3 failed" in told.splitlines()[-1]
    assert f"lab/exits strf: contract (3 shards): the model's code asked the process to end ({call})" in told


@pytest.mark.parametrize("command", [["plan"], ["run", "--local"], ["run"]])
def test_a_store_that_ends_with_the_command_is_refused(tmp_path, capsys, command):
    config = write_lab(tmp_path, healthy=1)
    config.write_text(config.read_text().replace("cube.zarr", "memory://lab/cube.zarr"))
    assert main([*command, str(config)]) == 2
    assert "every map would be lost when the command ends; give a folder, or s3://" in capsys.readouterr().err


def test_code_of_a_lab_may_print_close_its_output_change_the_folder_or_interrupt_a_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_lab(tmp_path, {"rude": "rude", "interrupting": "interrupt"}, healthy=1)
    assert main(["plan", str(config), "--json", "-"]) == 3
    printed = capsys.readouterr()
    (broken,) = json.loads(printed.out)["broken"]
    assert broken["checkpoint"] == "interrupting"
    assert "raised KeyboardInterrupt by itself" in broken["error"]
    assert "what a model prints" in printed.err
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(config), "--json", "plan.json"]) == 3
    assert json.loads((tmp_path / "plan.json").read_text())["broken"] == [broken]


@pytest.mark.parametrize("name", ["strf", "strf_status"])
def test_a_damaged_piece_of_a_store_is_no_surprise_to_whoever_reads_it(tmp_path, capsys, name):
    config = write_lab(tmp_path, healthy=2)
    assert main(["run", "--local", str(config)]) == 0
    store = tmp_path / "cube.zarr"
    next(path for path in (store / "lab" / name / "c").rglob("*") if path.is_file()).write_bytes(b"")
    for command in (["summarise", str(store)], ["reliability", str(store), "--shuffles", "5"]):
        assert main(command) == 2
        assert re.search(rf"lab/{name} of .* cannot be decoded .*gradmap verify", capsys.readouterr().err)
    assert main(["verify", str(store)]) == 3


def test_what_a_crashed_process_was_at_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with noted("here.zarr") as note:
        note("lab/a strf")
        assert left_behind_at("here.zarr") is None  # it lives
        (place,) = tmp_path.iterdir()
        gone = subprocess.Popen(["true"])
        gone.wait()
        place.write_text(f"{gone.pid} lab/a strf")
        assert left_behind_at("there.zarr") is None
        assert left_behind_at("here.zarr") == "lab/a strf"
        assert left_behind_at("here.zarr") is None
        note("lab/b strf")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_crash_of_a_local_run_is_named_by_the_next(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    config = write_lab(tmp_path, {"crashing": "crash in a run"}, healthy=1)
    command = [sys.executable, "-m", "tasks", "run", "--local", str(config)]
    crashed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert crashed.returncode == -signal.SIGSEGV
    assert main(["status", str(config)]) != 0
    (weights,) = (tmp_path / "checkpoints/crashing").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-50])
    capsys.readouterr()
    assert main(["run", "--local", str(config)]) in (2, 3)
    printed = capsys.readouterr()
    assert "ended without a word while it computed lab/crashing strf" in printed.out + printed.err
    main(["run", "--local", str(config)])
    printed = capsys.readouterr()
    assert "without a word" not in printed.out + printed.err


def test_a_process_that_a_command_forks_may_end_as_it_likes():
    with exits_refused():
        child = os.fork()
        if not child:
            os._exit(7)
        with pytest.raises(SystemExit, match=r"os\._exit\(7\)"):
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_plan_ends_although_a_forward_pass_never_does(tmp_path):
    config = write_lab(tmp_path, {"waits": "hang"}, healthy=1)
    code = "import pipeline.run.contract_checks as room, sys; room.with_contracts.__defaults__ = (1.0,);"
    code += "from tasks.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "plan", str(config)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3, ended.stderr
    assert "lab/waits" in ended.stdout
    assert ended.stdout.splitlines()[-1].endswith("1 checkpoint of 2 cannot be used (exit status 3)")


def test_megabytes_and_escapes_in_an_exception_reach_no_terminal_and_no_record(tmp_path, capsys):
    config = write_lab(tmp_path, {"shouts": "shout"}, healthy=1)
    assert main(["run", "--local", str(config)]) == 3
    main(["status", str(config)])
    main(["report", str(config)])
    printed = capsys.readouterr()
    (told,) = {line for line in printed.out.splitlines() if line.startswith("failed: ") and "lab/shouts" in line}
    assert "two lines" in told
    assert len(told) < 800
    assert not STEERING.search(printed.out + printed.err)
    attributes = json.loads((tmp_path / "cube.zarr/lab/zarr.json").read_text())["attributes"]
    (failure,) = json.loads(attributes["failures"])["entries"]
    assert len(failure["message"]) <= 600
    assert not STEERING.search(failure["message"])
    assert not STEERING.search((tmp_path / "cube.html").read_text())


def test_a_name_that_steers_a_terminal_is_refused_in_words_that_do_not(tmp_path, capsys):
    write_checkpoint(tmp_path / "checkpoints/good-\x1b[31m\u202e", 9)
    assert main(["plan", str(write_lab(tmp_path, healthy=1))]) == 2
    printed = capsys.readouterr()
    assert "control characters" in printed.err
    assert not STEERING.search(printed.out + printed.err)


def test_only_a_map_summed_over_neurons_leaves_nothing_to_compare_and_that_is_said(tmp_path, capsys):
    maps = '[maps.strf]\nkind = "strf"\nneurons = "sum"\n'
    config = write_lab(tmp_path, healthy=2, maps=maps)
    assert main(["run", "--local", str(config)]) == 0
    assert main(["reliability", str(config)]) == 2
    told = capsys.readouterr().err
    assert "only one map 'strf' for all neurons together" in told


def test_a_site_of_checkpoints_is_no_site_of_neurons(tmp_path, capsys):
    for seed in range(4):
        labels = {"architecture": "ab"[seed % 2], "site": "S1"}
        write_checkpoint(tmp_path / f"checkpoints/good-{seed}", seed, labels)
    config = write_lab(tmp_path, healthy=0, entries=entry("checkpoints/*"))
    assert main(["run", "--local", str(config)]) == 0
    assert main(["compare", "--untrusted", str(config), "a", "b"]) == 0
    assert "neurons, which are taken as independent" in capsys.readouterr().out
