"""A population with planted receptive fields, to see the whole pipeline find them again."""

from pipeline.demo.build import DemoFiles, load_population, prepare_demo
from pipeline.demo.recovery import Recovery, recovery

__all__ = ["DemoFiles", "Recovery", "load_population", "prepare_demo", "recovery"]
