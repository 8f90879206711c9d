"""Which paths become checkpoints, and what they are called."""

import glob
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.checkpoint_discovery import _unfit
from pipeline.inputs.checkpoints import discover
from pipeline.inputs.files import find
from pipeline.plan.config import ConfigError
from tests.inputs.lab import cells, run_config, save_best, save_folder


def found(folder: Path, *entries):
    config = run_config(folder, *entries)
    return discover(config, config.cohort[0])


def ids(folder: Path, *entries) -> list[str]:
    return [source.id for source in found(folder, *entries)]


def test_folders_come_sorted_with_their_names_as_ids(tmp_path):
    for name in ("b", "a", "c"):
        save_folder(tmp_path / "runs" / name, cells(), {})
    sources = found(tmp_path, {"path": "runs/*"})
    assert [source.id for source in sources] == ["a", "b", "c"]
    assert [source.location for source in sources] == [str(tmp_path / "runs" / name) for name in "abc"]
    assert "checkpoints[0]" in sources[0].where
    assert "runs/*" in sources[0].where


def test_entries_keep_their_order(tmp_path):
    for name in ("a", "b"):
        save_folder(tmp_path / name, cells(), {})
    assert ids(tmp_path, {"path": "b"}, {"path": "a"}) == ["b", "a"]


def test_an_empty_folder_is_a_checkpoint_that_will_fail_alone(tmp_path):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    assert ids(tmp_path, {"path": "runs/*"}) == ["empty"]


def test_a_dangling_link_is_a_checkpoint_that_will_fail_alone(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "nowhere")
    assert ids(tmp_path, {"path": "runs/*"}) == ["gone"]


def test_a_weights_file_has_the_id_of_its_folder(tmp_path):
    for seed in range(3):
        save_best(tmp_path / f"seed{seed}", cells(seed))
    sources = found(tmp_path, {"path": "seed*/best.pt"})
    assert [source.id for source in sources] == ["seed0", "seed1", "seed2"]
    assert sources[0].location == str(tmp_path / "seed0" / "best.pt")


def test_stray_files_beside_the_folders_are_no_checkpoints(tmp_path):
    save_folder(tmp_path / "runs" / "a", cells(), {})
    for name in ("README.md", "summary.json", "summary_neurons.pt", "final_neurons.pt", ".hidden.pt"):
        (tmp_path / "runs" / name).write_bytes(b"")
    assert ids(tmp_path, {"path": "runs/*"}) == ["a"]


def test_a_file_of_neurons_that_is_named_outright_is_taken(tmp_path):
    (tmp_path / "final_neurons.pt").write_bytes(b"")
    assert len(found(tmp_path, {"path": "final_neurons.pt"})) == 1


def test_a_recursive_pattern_takes_each_checkpoint_once(tmp_path):
    for name in ("x/a", "x/b", "y/c"):
        save_folder(tmp_path / "runs" / name, cells(), {}, {"neurons": []})
    assert ids(tmp_path, {"path": "runs/**"}) == ["a", "b", "c"]


def test_brackets_in_a_name_are_no_pattern(tmp_path):
    home = tmp_path / "run [1]"
    save_folder(home / "net[2]", cells(), {})
    assert ids(home, {"path": "net[2]"}) == ["net[2]"]
    assert ids(home, {"path": "net*"}) == ["net[2]"]


def test_a_link_given_by_the_user_is_followed_under_its_own_name(tmp_path):
    save_folder(tmp_path / "real", cells(), {})
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    assert ids(tmp_path, {"path": "alias"}) == ["alias"]


def test_an_id_names_the_one_checkpoint_of_an_entry(tmp_path):
    save_folder(tmp_path / "a", cells(), {})
    assert ids(tmp_path, {"path": "a", "id": "my net"}) == ["my net"]


def test_an_id_template_tells_seeds_of_different_networks_apart(tmp_path):
    for network in ("gru", "ln"):
        for seed in range(2):
            save_best(tmp_path / network / f"seed{seed}", cells())
    expected = ["gru-seed0", "gru-seed1", "ln-seed0", "ln-seed1"]
    assert ids(tmp_path, {"path": "*/seed*", "id": "{parent}-{folder}"}) == expected
    assert ids(tmp_path, {"path": "*/seed*/best.pt", "id": "{parent}-{folder}"}) == expected
    assert ids(tmp_path, {"path": "ln/seed*/best.pt", "id": "{folder}.{stem}"}) == ["seed0.best", "seed1.best"]


def test_one_id_for_several_checkpoints_is_refused(tmp_path):
    for name in "ab":
        save_folder(tmp_path / name, cells(), {})
    with pytest.raises(ConfigError, match=r"matches 2 checkpoints, which cannot all be called 'net'.*template"):
        found(tmp_path, {"path": "*", "id": "net"})


@pytest.mark.parametrize("template", ["{seed}", "{folder.__class__}", "{", "{0}", "{folder!x}"])
def test_an_id_template_knows_three_words(tmp_path, template):
    save_folder(tmp_path / "a", cells(), {})
    with pytest.raises(ConfigError, match=r"cannot be filled in .*\{folder\}, \{parent\}, \{stem\}"):
        found(tmp_path, {"path": "a", "id": template})


def test_a_path_that_matches_nothing_is_refused_by_entry(tmp_path):
    save_folder(tmp_path / "a", cells(), {})
    with pytest.raises(ConfigError, match=r"cohort 'cells': checkpoints\[1\] \(path = 'b-\*'\) matches nothing"):
        found(tmp_path, {"path": "a"}, {"path": "b-*"})


def test_a_pattern_that_matches_only_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=r"notes\.txt, which are neither folders nor weights"):
        found(tmp_path, {"path": "*"})


def test_two_checkpoints_with_one_id_are_refused_with_both_paths(tmp_path):
    save_folder(tmp_path / "x" / "seed0", cells(), {})
    save_folder(tmp_path / "y" / "seed0", cells(), {})
    with pytest.raises(ConfigError) as refusal:
        found(tmp_path, {"path": "x/*"}, {"path": "y/*"})
    message = str(refusal.value)
    assert "the id 'seed0'" in message
    assert str(tmp_path / "x" / "seed0") in message
    assert str(tmp_path / "y" / "seed0") in message
    assert 'id = "{parent}-{folder}"' in message


@pytest.mark.parametrize(
    ("files", "path", "advice"),
    [
        (("net/epoch=1", "net/epoch=2"), "net/epoch={epoch}.pt", 'id = "{epoch}" or id = "{stem}"'),
        (("net/epoch=1", "net/epoch=2"), "net/*.pt", 'id = "{stem}" or id = "{folder}-{stem}"'),
        (("a/net/x", "b/net/x"), "*/net/x.pt", 'id = "{parent}-{folder}" or id = "{parent}-{folder}-{stem}"'),
        (("a/net/x", "a/net/y", "b/net/x"), "*/net/*.pt", 'id = "{parent}-{folder}-{stem}"'),
    ],
)
def test_ids_that_are_proposed_differ(tmp_path, files, path, advice):
    for name in files:
        (save_best((tmp_path / name).parent, cells()) / "best.pt").rename(tmp_path / f"{name}.pt")
    with pytest.raises(ConfigError, match="for example " + re.escape(advice) + ", or rename"):
        found(tmp_path, {"path": path})
    assert len(found(tmp_path, {"path": path, "id": advice.split('"')[1]})) == len(files)


def test_one_checkpoint_named_by_two_entries_is_refused(tmp_path):
    save_folder(tmp_path / "a", cells(), {})
    with pytest.raises(ConfigError, match=r"named twice, so take one of the entries out"):
        found(tmp_path, {"path": "a"}, {"path": "*"})


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("../../etc", "path separator"),
        ("a/b", "path separator"),
        ("a\\b", "path separator"),
        ("..", "is no name"),
        ("a\nb", "control characters"),
        ("a\x1b[31m", "control characters"),
        (" a", "spaces at its ends"),
        ("x" * 201, "has 201 characters"),
    ],
)
def test_an_id_that_cannot_be_a_label_is_refused(tmp_path, label, reason):
    save_folder(tmp_path / "a", cells(), {})
    with pytest.raises(ConfigError, match=reason):
        found(tmp_path, {"path": "a", "id": label})


def test_a_folder_name_that_cannot_be_a_label_is_refused(tmp_path):
    (tmp_path / "bad\x07name").mkdir()
    with pytest.raises(ConfigError, match=r"holds control characters.*rename the folder"):
        found(tmp_path, {"path": "*"})


def test_the_parent_folder_itself_has_a_name(tmp_path):
    save_folder(tmp_path / "net", cells(), {})
    (tmp_path / "net" / "inner").mkdir()
    assert ids(tmp_path / "net" / "inner", {"path": ".."}) == ["net"]


@given(st.text(max_size=20))
def test_every_id_that_is_taken_is_one_safe_name(label):
    if _unfit(label) is None:
        assert Path("/store", label).name == label
        assert label.isprintable() or label.strip() == label


def test_a_password_in_a_url_is_refused_without_repeating_it(tmp_path):
    with pytest.raises(ConfigError, match=r"holds credentials") as refusal:
        found(tmp_path, {"path": "s3://KEY:hunter2@bucket/runs/*"})
    assert "hunter2" not in str(refusal.value)
    assert "KEY" not in str(refusal.value)
    assert "checkpoints[0]" in str(refusal.value)


def test_a_signed_url_is_refused_without_repeating_the_signature(tmp_path):
    with pytest.raises(ConfigError, match=r"has a query, which may be a signature") as refusal:
        found(tmp_path, {"path": "https://host/best.pt?X-Amz-Signature=hunter2"})
    assert "hunter2" not in str(refusal.value)


# Links


def test_two_folders_that_hold_links_to_each_other_are_searched_once(tmp_path):
    """Every further level would double the paths: 2**40 of them before the system calls a link a loop."""
    for name in "abcdef":
        save_best(tmp_path / "runs" / name / "seed0", cells())
    for name in "abcdef":
        for other in "abcdef":
            (tmp_path / "runs" / name / f"to-{other}").symlink_to(tmp_path / "runs" / other)
    started = time.monotonic()
    found = find(str(tmp_path / "runs/**/best.pt"))
    assert time.monotonic() - started < 5
    assert [match.path for match in found] == [f"{tmp_path}/runs/{name}/seed0/best.pt" for name in "abcdef"]


def test_two_stars_find_what_pythons_own_glob_finds(tmp_path):
    for place in ("a/x", "a/b/x", "c/a/b/x", "x"):
        save_best(tmp_path / place, cells())
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "best.pt").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for pattern in ("**/best.pt", "**/b/*", "a/**", "**/a/**/best.pt", "**/x", "[ac]/**/best.pt", "**", "a**/best.pt"):
        expected = {os.path.realpath(name) for name in glob.glob(str(tmp_path / pattern), recursive=True)}
        assert {os.path.realpath(match.path) for match in find(str(tmp_path / pattern))} == expected, pattern
