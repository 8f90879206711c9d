"""The folder in which the Examples of the documentation run: a config, two checkpoints, a sound, and their cube."""

from pathlib import Path

from pipeline import load_config, run_locally
from tests.run.lab import entry, write_checkpoint, write_config, write_sound

MAPS = '[maps.strf]\nkind = "strf"\n\n[maps.waveform]\nkind = "waveform"\nstimuli = "clip.wav"\nobjective = "peak"\n'


def write_example_lab(folder: Path) -> Path:
    """That folder, with everything computed."""
    for seed in (0, 1):
        write_checkpoint(folder / "checkpoints" / f"seed{seed}", seed, {"session": "monday"}, hears=True)
    (folder / "my_lab.py").write_text("from tests.run.lab import LabModel\n", encoding="utf-8")
    write_sound(folder / "clip.wav")
    write_config(folder, entries=entry(model_class="my_lab.LabModel"), maps=MAPS)
    run_locally(load_config(folder / "run.toml"))
    return folder
