"""Models as labs write them, without a thought of the contract, and factories that build them."""

import importlib
import sys

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

BANDS, CELLS = 6, 5


class RateGRU(nn.Module):
    """Rates (batch, time, neuron) of a recurrent network to a cochleagram (batch, time, feature)."""

    def __init__(self, n_bands: int = BANDS, n_hidden: int = 8, n_cells: int = CELLS) -> None:
        super().__init__()
        self.rnn = nn.GRU(n_bands, n_hidden, batch_first=True)
        self.readout = nn.Linear(n_hidden, n_cells)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.rnn(x)
        return functional.softplus(self.readout(hidden))


class ConvolutionalField(nn.Module):
    """A piecewise linear network over a window of the past, one cell after the other, with its activations beside.

    Takes (batch, time, band) and gives ``(prediction (batch, time, cell), list of activations)``, as models of dynamic
    STRFs do that are fitted to a window of ``n_lags`` frames.
    """

    def __init__(self, n_bands: int = BANDS, n_lags: int = 7, n_hidden: int = 9, n_cells: int = CELLS) -> None:
        super().__init__()
        self.n_lags = n_lags
        self.window = nn.Conv2d(1, n_hidden, (n_lags, n_bands), bias=False)
        self.mix = nn.Conv2d(n_hidden, n_hidden, 1, bias=False)
        self.out = nn.Linear(n_hidden, n_cells)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        padded = functional.pad(x.unsqueeze(1), (0, 0, self.n_lags - 1, 0))
        first = functional.relu(self.window(padded))
        second = functional.relu(self.mix(first))
        return self.out(second.squeeze(-1).transpose(1, 2)), [first, second]


class Listening(nn.Module):
    """A decoder-only language model's body over frames of sound, with a readout: causal by its own mask."""

    def __init__(self, n_bands: int = BANDS, width: int = 16, n_cells: int = CELLS) -> None:
        super().__init__()
        hide_broken_companions()
        from transformers import GPT2Config, GPT2Model

        config = GPT2Config(
            vocab_size=1, n_positions=128, n_embd=width, n_layer=2, n_head=2, attn_implementation="eager"
        )
        self.embed, self.body, self.readout = nn.Linear(n_bands, width), GPT2Model(config), nn.Linear(width, n_cells)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        hidden = self.body(inputs_embeds=self.embed(frames)).last_hidden_state
        return {"hidden": hidden, "rates": self.readout(hidden)}


def hide_broken_companions() -> None:
    """Take builds for another torch out of sight: large libraries import them, also for models that see nothing."""
    for name in ("torchvision", "torchaudio"):
        try:
            importlib.import_module(name)
        except Exception:
            sys.modules[name] = None  # type: ignore[assignment]  # what Python itself takes for "not there"


#: How each is adapted, in the words of the config.
LAYOUTS = {
    "RateGRU": {"input": "b 1 f t -> b t f", "output": "b t n -> b n 1 t"},
    "ConvolutionalField": {"input": "b 1 f t -> b t f", "output": "b t n -> b n 1 t", "select": 0},
    "Listening": {"input": "b 1 f t -> b t f", "output": "b t n -> b n 1 t", "select": "rates"},
}


def trained(name: str, seed: int = 0) -> nn.Module:
    """A model with weights of a seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return globals()[name]().eval()


def build(path: str, name: str = "RateGRU", **arguments: int) -> nn.Module:
    """A factory as a lab writes it: it builds, and leaves loading to others."""
    return globals()[name](**arguments)
