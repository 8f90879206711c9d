"""What each `gradmap` command does, one file per kind of command."""
