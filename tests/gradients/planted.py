"""Models whose gradmaps are known in closed form."""

import torch
from torch import nn

from pipeline.gradients.encoding_model import AudioEncodingModel


class Kernels(nn.Module):
    """Causal linear readout: one kernel (channel, frequency, lag) for each neuron."""

    def __init__(self, kernels):
        super().__init__()
        self.kernels = nn.Parameter(kernels)

    def forward(self, x):
        padded = nn.functional.pad(x, (self.kernels.shape[-1] - 1, 0))
        return nn.functional.conv2d(padded, self.kernels.flip(-1))


class Linear(AudioEncodingModel):
    """Neurons that are their kernels (neuron, frequency, lag), lag 0 first."""

    def __init__(self, kernels, **slots):
        super().__init__(kernels.shape[1], kernels.shape[2], len(kernels), **slots)
        self.readout = Kernels(kernels.unsqueeze(1).repeat(1, self.C_in, 1, 1))


class Leak(nn.Module):
    """One leaky integrator for each neuron: ``y[t] = decay y[t - 1] + sum of x[t] over bands``."""

    def __init__(self, decays):
        super().__init__()
        self.decays = nn.Parameter(decays)

    def forward(self, x):
        drive, state, states = x.sum(dim=(1, 2)), torch.zeros(len(x), len(self.decays), dtype=x.dtype), []
        for now in drive.unbind(-1):
            state = self.decays * state + now[:, None]
            states.append(state)
        return torch.stack(states, dim=-1).unsqueeze(2)


def leaky(decays, n_bands=2):
    model = AudioEncodingModel(n_bands, 5, len(decays))
    model.readout = Leak(torch.as_tensor(decays))
    return model.eval()


class Ticking(nn.Module):
    """Neurons whose gain depends on the number of the frame."""

    def __init__(self, kernels):
        super().__init__()
        self.linear = Kernels(kernels.unsqueeze(1))

    def forward(self, x):
        response = self.linear(x)
        frame = torch.arange(x.shape[-1], dtype=x.dtype)
        return response * (2.0 + torch.sin(frame)) + torch.cos(frame)


def ticking(kernels):
    model = AudioEncodingModel(kernels.shape[1], kernels.shape[2], len(kernels))
    model.readout = Ticking(kernels)
    return model.eval()


class Refusing(Linear):
    """A linear model that takes only up to ``longest`` frames."""

    longest = 40

    def forward(self, stimulus):
        if stimulus.shape[-1] > self.longest:
            raise ValueError(f"at most {self.longest} frames, got {stimulus.shape[-1]}")
        return super().forward(stimulus)
