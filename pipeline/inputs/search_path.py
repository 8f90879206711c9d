"""Folders in which Python finds the modules that a config names."""

import os
import sys


def look_in(folder: str) -> None:
    """Find modules in this folder too, after all others, so that none of its files stands before what is installed."""
    folder = os.path.realpath(folder)
    if all(os.path.realpath(entry) != folder for entry in sys.path):
        sys.path.append(folder)
