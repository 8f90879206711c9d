"""What a user sees: results and progress apart, tables that fit, each failure once, an outcome for programs."""

import argparse
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import zarr

import pipeline.store.status as store_status
from pipeline.store.cube import create_or_extend
from pipeline.words import FAILED
from tasks.cli import COMMANDS, _parser, main
from tasks.finished import trust_line
from tasks.progress import Progress
from tasks.terminal import tell_table, text_table
from tests.store.plans import HEALTH, cohort, run_plan
from tests.tasks.trouble import write_lab

ROOT = Path(__file__).resolve().parents[2]


def subparsers() -> dict[str, argparse.ArgumentParser]:
    (action,) = [one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return action.choices


@pytest.mark.parametrize("name", list(subparsers()))
def test_every_command_shows_examples_and_what_its_exit_status_means(name):
    text = subparsers()[name].format_help()
    assert f"  gradmap {name}" in text
    for status in ("0  everything written", "2  refused", "3  finished, with failures", "4  stopped"):
        assert status in text
    assert "--json FILE" in text
    assert "--quiet" in text


def test_results_are_on_standard_output_and_progress_on_standard_error(tmp_path, capsys):
    assert main(["run", "--local", str(write_lab(tmp_path, healthy=2))]) == 0
    printed = capsys.readouterr()
    assert "reading checkpoints" in printed.err
    assert "of 6 shards" in printed.err
    assert [line.partition(":")[0] for line in printed.out.splitlines()] == ["store", "health", "gradmap"]


def test_health_of_many_flags_is_told_in_lines_that_fit():
    flags = {"finite_difference_off": 3, "reaches_before_stimulus": 41_000, "truncated_window": 1_200_000}
    flags |= {"hears_the_future": 7, "not_checked": 5}
    entries = store_status.Counts(done=2_000_000)
    told = trust_line(
        [SimpleNamespace(maps=[store_status.MapStatus("strf", entries, entries, {}, {"wrong": 10}, flags)])]
    )
    assert all(len(line) <= 80 for line in told.splitlines())
    assert told.splitlines()[0].startswith("health: 10 wrong of 2,000,000 maps (truncated_window 1,200,000,")
    assert all(f"{name} {count:,}" in " ".join(told.split()) for name, count in flags.items())


def test_the_last_line_of_a_status_fits_and_names_what_there_is(tmp_path, capsys):
    config = write_lab(tmp_path, {"cut": "cut"}, healthy=1)
    main(["run", "--local", "-q", str(config)])
    capsys.readouterr()
    assert main(["status", str(config)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"store: {tmp_path / 'cube.zarr'}"
    assert lines[-1] == "gradmap: finished, with failures: 3 shards done, 3 failed (exit status 3)"


def test_a_store_with_failures_and_more_to_compute_is_not_called_finished(tmp_path, capsys):
    store = str(tmp_path / "cube.zarr")
    create_or_extend(run_plan(store, cohort(("a", "b"), stimuli=())), health_flags=HEALTH)
    zarr.open_array(store, path="speech/strf_status", mode="r+")[0] = FAILED  # three blocks of neurons
    assert main(["status", store]) == 4
    ending = capsys.readouterr().out.splitlines()[-1]
    assert ending == "gradmap: stopped, and can be continued: 0 shards done, 3 failed, 3 pending (exit status 4)"


def test_a_quiet_command_prints_its_last_line_and_nothing_else(tmp_path, capsys):
    config = write_lab(tmp_path, {"cut": "cut"}, healthy=1)
    for command in (["plan"], ["run", "--local"], ["status"], ["verify"]):
        assert main([*command, "-q", str(config)]) == 3
        printed = capsys.readouterr()
        assert printed.err == ""
        (line,) = printed.out.splitlines()
        assert line.endswith("(exit status 3)")


def test_standard_output_holds_json_alone_where_that_is_asked_for(tmp_path, capsys):
    config = write_lab(tmp_path, {"cut": "cut"}, healthy=2)
    expected = {
        ("plan",): {"store", "weight", "broken"},
        ("run", "--local"): {"done", "failed", "failures", "config"},
        ("status",): {"cohorts"},
        ("verify",): {"findings", "sound"},
        ("reliability", "--shuffles", "5", "--untrusted"): {"groups"},
        ("summarise",): {"rows", "columns"},
        ("help", "measures"): {"topic", "entries"},
    }
    for command, keys in expected.items():
        status = main([*command, "--json", "-", *([] if command[0] == "help" else [str(config)])])
        printed = capsys.readouterr()
        outcome = json.loads(printed.out)
        assert outcome["exit_status"] == status
        assert keys <= set(outcome)
        assert printed.err.splitlines()[-1].endswith(f"(exit status {status})")


def test_a_refusal_is_an_outcome_as_well(capsys):
    assert main(["status", "nowhere.zarr", "--json", "-"]) == 2
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["exit_status"] == 2
    assert "nowhere.zarr" in outcome["reason"]


def test_a_checkpoint_that_fails_in_several_maps_is_one_line(tmp_path, capsys):
    maps = '[maps.strf]\nkind = "strf"\n[maps.silent]\nkind = "strf"\nbaseline = "silence"\nsilence_level = -1.0\n'
    config = write_lab(tmp_path, {"cut": "cut"}, healthy=1, maps=maps)
    for command, begin in ((["run", "--local"], "failed: lab/cut "), (["status"], "failed: cut ")):
        assert main([*command, str(config)]) == 3
        failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(begin)]
        assert len(failed) == 1
        assert "strf" in failed[0]
        assert "silent" in failed[0]


def test_a_fault_of_many_checkpoints_is_one_line_and_each_one_for_programs(tmp_path, capsys):
    config = write_lab(tmp_path, {f"cut{i}": "cut" for i in range(5)} | {"raises": "raise"}, healthy=1)
    many = "failed: {0}cut0, {0}cut1, {0}cut2 and 2 more in strf: load (15 shards): "
    for command, place in ((["run", "--local"], "lab/"), (["status"], "")):
        assert main([*command, str(config), "--json", str(tmp_path / "end.json")]) == 3
        failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
        assert len(failed) == 2
        assert failed[0].startswith(many.format(place))
        assert failed[1].startswith(f"failed: {place}raises strf: ")
        outcome = json.loads((tmp_path / "end.json").read_text())
        failures = outcome["failures"] if "failures" in outcome else outcome["cohorts"][0]["failures"]
        assert {one["checkpoint"] for one in failures} == {"raises", *(f"cut{i}" for i in range(5))}


def test_a_table_wider_than_the_terminal_goes_on_below_with_its_first_column():
    header = [f"column {number}" for number in range(12)]
    rows = [[f"r{row}c{column}" for column in range(12)] for row in range(3)]
    lines = text_table(header, rows).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("column 0") for line in lines) == 2
    shown = " ".join(lines)
    assert all(entry in shown for row in rows for entry in row)


def test_a_long_entry_takes_several_lines_and_loses_nothing():
    label = "".join(f"{number:02}" for number in range(60))
    lines = text_table(("name", "shards"), [(label, 3), ("short", 12)]).splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join(line.split()[0] for line in lines[2:6]) == label
    assert lines[-1].split() == ["short", "12"]
    assert lines[2].endswith(" 3")  # numbers to the right


def test_words_of_an_entry_stay_whole():
    words = "the reasons not to trust a map, and what to do about each of them"
    lines = text_table(("topic", "what"), [("flags", words)]).splitlines()
    assert " ".join(" ".join(lines[2:]).split()) == f"flags {words}"


def on_a_terminal(*words: str, columns: int = 80) -> str:
    """What a command writes where both its streams are a terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks", *words],
        cwd=ROOT,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    written = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(leader)
    process.wait(60)
    return written.decode("utf-8", "replace")


def test_a_terminal_shows_a_clock_then_a_bar_and_failures_in_colour(tmp_path):
    config = write_lab(tmp_path, {"cut": "cut"}, healthy=2)
    written = on_a_terminal("run", "--local", str(config))
    assert "reading checkpoints and stimuli" in written
    assert "0:00:0" in written  # the clock
    assert "━" in written  # the bar
    assert "\x1b[31mfailed: lab/cut" in written
    assert written.rstrip().endswith("(exit status 3)")
    ending = written.rstrip().rpartition("gradmap: ")[2].splitlines()
    assert len(ending) == 2
    assert max(map(len, ending)) <= 80
    assert " ".join(ending[0].split()).startswith("finished, with failures: 6 shards done (6 of them now), 3 failed,")


def test_the_commands_that_are_there_are_those_of_their_modules():
    assert {"demo", "plan", "run", "status", "verify", "summarise", "report", "reliability", "compare", "help"} <= set(
        subparsers()
    )
    assert len(set(COMMANDS)) == len(COMMANDS)


class Counts:
    """Counts of a run of ten shards."""

    pending, done_before, failed_before, failed = list(range(10)), 0, 0, 0

    def __init__(self, computed: int) -> None:
        self.computed = computed


def test_a_log_says_what_is_being_done_and_how_long_the_last_thing_took(capsys, monkeypatch):
    now = iter([0.0, 7.25, *[9.0] * 10])
    monkeypatch.setattr("tasks.progress.time.monotonic", lambda: next(now))
    progress = Progress(bar=False)
    progress.busy("starting Ray")
    progress.busy("waiting for the first worker")
    progress.update(Counts(0))
    assert capsys.readouterr().err.splitlines() == [
        "starting Ray",
        "waiting for the first worker (starting Ray took 7.2 s)",
        "0 of 10 shards, 0 failed",
    ]


@pytest.mark.parametrize("topic", ["config", "kinds", "measures", "flags"])
def test_a_topic_is_explained_in_lines_that_fit_from_the_entries_themselves(topic, capsys):
    assert main(["help", topic]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    named = {
        "config": "[[cohort]] frame_ms",
        "kinds": 'kind = "strf"',
        "measures": "best_frequency",
        "flags": "truncated_window",
    }
    assert named[topic] in lines


@pytest.mark.parametrize("topic", ["config", "kinds", "flags"])
def test_every_key_says_what_it_means(topic, capsys):
    main(["help", topic, "--json", "-"])
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [entry["name"] for entry in entries if not entry.get("meaning")] == []


def test_without_a_topic_help_lists_them(capsys):
    assert main(["help"]) == 0
    assert "measures" in capsys.readouterr().out


def test_rows_of_a_table_can_be_coloured_only_on_a_terminal(capsys):
    tell_table(("a",), [("x",)], ["red"])
    assert "\x1b" not in capsys.readouterr().out
