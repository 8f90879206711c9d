"""`gradmap init`: a first config for the checkpoints of a folder."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.plan.config_blanks import blanks
from pipeline.plan.urls import ConfigError
from pipeline.text import counted
from tasks.finished import COMPLETE, Finished
from tasks.parsing import new_command
from tasks.terminal import tell

#: Name of the config that is written.
NAME = "run.toml"


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    summary = "write a run.toml for the checkpoints that lie in a folder"
    parser = new_command(commands, init, summary, "init trained", "init . && gradmap plan run.toml")
    parser.add_argument("folder", type=Path, help="where the checkpoints lie, and run.toml will")


def init(arguments: argparse.Namespace) -> Finished:
    """A config written for a folder, with what is still to be filled in."""
    import tomllib

    from pipeline.inputs.config_draft import draft_config
    from pipeline.inputs.folder_survey import survey

    path = arguments.folder / NAME
    if path.exists():
        raise ConfigError(
            f"{path} is there already and is not overwritten; rename it, or go on with it: gradmap plan {path}"
        )
    found = survey(str(arguments.folder))
    text = draft_config(found)
    missing = list(blanks(tomllib.loads(text)))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}); give a folder that you may write to") from error
    for group in found.groups:
        tell(f"{group.pattern}: {counted(group.count, 'checkpoint')}, {group.class_name or 'class not known'}")
    for key, hint in missing:
        tell(f"to fill in: {key}: {hint}")
    content = {"config": str(path), "groups": found.groups, "to_fill_in": dict(missing)}
    rest = f"{counted(len(missing), 'place')} to fill in, then" if missing else "next:"
    return Finished(COMPLETE, f"gradmap: wrote {path}; {rest} gradmap plan {path} (exit status 0)", content)
