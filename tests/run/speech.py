"""The run over the trained speech checkpoints, and what deepSTRF itself says about them."""

from pathlib import Path

import torch

CONFIG = """
store = "gradmaps.zarr"

[[cohort]]
name = "speech"
frame_ms = 10.0
lags = 40
frequencies_hz = "{speech}/frequencies.txt"
neurons = "{speech}/neurons.csv"

[[cohort.checkpoints]]
path = "{speech}/checkpoints/linear-*"
[[cohort.checkpoints]]
path = "{speech}/checkpoints/ln-*"
[cohort.checkpoints.modules.output_activation]
class = "torch.nn.Identity"
[[cohort.checkpoints]]
path = "{speech}/checkpoints/nrf-*"
[[cohort.checkpoints]]
path = "{speech}/checkpoints/dnet-*"
[[cohort.checkpoints]]
path = "{speech}/checkpoints/statenet_gru-*"
[cohort.checkpoints.modules.output_activation]
class = "torch.nn.Identity"
[[cohort.checkpoints]]
path = "{speech}/checkpoints/transformer-*"

[[cohort]]
name = "speech_wav"
frame_ms = 10.0
lags = 40
frequencies_hz = {{min = 80.0, max = 3800.0, count = 32, scale = "mel"}}
neurons = "{speech}/neurons.csv"

[[cohort.checkpoints]]
path = "{speech}/checkpoints/wav_mel_statenet-*"
[cohort.checkpoints.modules.output_activation]
class = "torch.nn.Identity"
[cohort.checkpoints.modules.wav2spec]
class = "deepSTRF.models.wav2spec.CausalMelSpectrogram"
audio_fs = 8000
n_mels = 32
hop_ms = 10.0
win_ms = 20.0
f_min = 80.0
f_max = 3800.0

[maps.strf]
kind = "strf"

[maps.strf_speech]
kind = "strf"
baseline = "stimuli"
stimuli = "{speech}/spectrograms.npz"
cohorts = ["speech"]

[maps.waveform]
kind = "waveform"
cohorts = ["speech_wav"]
stimuli = "{speech}/sounds/*.wav"
window_ms = 300.0

[maps.waveform_peak]
kind = "waveform"
cohorts = ["speech_wav"]
stimuli = "{speech}/sounds/*.wav"
objective = "peak"
window_ms = 300.0

[maps.waveform_sum]
kind = "waveform"
cohorts = ["speech_wav"]
stimuli = "{speech}/sounds/*.wav"
objective = "sum"
"""


def speech_config(speech: Path, folder: Path) -> Path:
    """The config of the whole speech run, written into a folder."""
    path = folder / "run.toml"
    path.write_text(CONFIG.format(speech=speech))
    return path


def deepstrf_model(folder: Path) -> torch.nn.Module:
    """The checkpoint as deepSTRF itself loads it, with the modules that its folder does not record."""
    from pipeline.inputs.torchaudio_standin import ensure_torchaudio

    ensure_torchaudio()
    import deepSTRF.models.audio as zoo
    from deepSTRF.models.wav2spec import CausalMelSpectrogram

    architecture = folder.name.split("-")[0]
    extra: dict[str, torch.nn.Module] = {}
    if architecture in ("ln", "statenet_gru", "wav_mel_statenet"):
        extra["output_activation"] = torch.nn.Identity()
    if architecture == "wav_mel_statenet":
        extra["wav2spec"] = CausalMelSpectrogram(
            audio_fs=8000, n_mels=32, hop_ms=10.0, win_ms=20.0, f_min=80.0, f_max=3800.0
        )
    classes = {
        "linear": zoo.Linear,
        "ln": zoo.LinearNonlinear,
        "nrf": zoo.NetworkReceptiveField,
        "dnet": zoo.DNet,
        "statenet_gru": zoo.StateNet,
        "transformer": zoo.Transformer,
        "wav_mel_statenet": zoo.StateNet,
    }
    return classes[architecture].from_pretrained(folder, extra_kwargs=extra).eval()
