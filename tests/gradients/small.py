"""Small models that keep the contract, with gradients known in closed form or by plain autograd."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Kernels(nn.Module):
    """Responses that are causal convolutions with known kernels (neuron, frequency, lag), through a nonlinearity."""

    def __init__(self, kernels: Tensor, nonlinearity: nn.Module | None = None, n_channels: int = 1) -> None:
        super().__init__()
        self.O, self.F, self.T = kernels.shape
        self.C_in = n_channels
        self.wav2spec = nn.Identity()
        self.prefiltering = nn.Identity()
        self.core = nn.Identity()
        self.readout = KernelReadout(kernels)
        self.nonlinearity = nonlinearity or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinearity(self.readout(self.core(self.prefiltering(self.wav2spec(x)))))


class KernelReadout(nn.Module):
    def __init__(self, kernels: Tensor) -> None:
        super().__init__()
        self.kernels = nn.Parameter(kernels.flip(-1).clone())

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x.sum(dim=1, keepdim=True), (self.kernels.shape[-1] - 1, 0))
        return nn.functional.conv2d(padded, self.kernels.unsqueeze(1))


class Recurrent(nn.Module):
    """A frame-wise encoder, a recurrent layer, and a readout with an optional hidden layer."""

    def __init__(
        self,
        kind: str = "GRU",
        n_neurons: int = 5,
        n_bands: int = 4,
        n_hidden: int = 6,
        n_layers: int = 1,
        hidden_readout: int | None = None,
        batch_first: bool = True,
        affine_output: bool = False,
    ) -> None:
        super().__init__()
        self.O, self.F, self.T, self.C_in = n_neurons, n_bands, 10, 1
        self.wav2spec = nn.Identity()
        self.prefiltering = nn.Identity()
        self.encoder = nn.Sequential(nn.Linear(n_bands, n_hidden), nn.LayerNorm(n_hidden), nn.Sigmoid())
        self.batch_first = batch_first
        self.rnn = getattr(nn, kind)(n_hidden, n_hidden, num_layers=n_layers, batch_first=batch_first)
        layers = (
            [nn.Linear(n_hidden, n_neurons)]
            if hidden_readout is None
            else [nn.Linear(n_hidden, hidden_readout), nn.LeakyReLU(0.1), nn.Linear(hidden_readout, n_neurons)]
        )
        self.readout = FrameReadout(nn.Sequential(*layers), nn.Identity() if affine_output else nn.Softplus())

    def forward(self, x: Tensor) -> Tensor:
        frames = self.encoder(self.prefiltering(self.wav2spec(x)).sum(dim=1).transpose(-1, -2))
        if not self.batch_first:
            frames = frames.transpose(0, 1)
        features = self.rnn(frames)[0]
        if not self.batch_first:
            features = features.transpose(0, 1)
        return self.readout(features.transpose(-1, -2))


class FrameReadout(nn.Module):
    def __init__(self, layers: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.layers, self.activation = layers, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.layers(x.transpose(-1, -2))).transpose(-1, -2).unsqueeze(-2)


class OnOff(nn.Module):
    """A prefilter with two channels: rises and falls of each band."""

    out_channels = 2

    def forward(self, x: Tensor) -> Tensor:
        change = x - nn.functional.pad(x, (1, 0))[..., :-1]
        return torch.cat([torch.relu(change), torch.relu(-change)], dim=1)


class FrameAverage(nn.Module):
    """A front-end: a bank of filters, rectified and averaged over each frame."""

    def __init__(self, n_bands: int, hop: int = 8, taps: int = 5, window: int = 12) -> None:
        super().__init__()
        self.hop, self.out_channels, self.window = hop, n_bands, window
        self.filters = nn.Parameter(torch.randn(n_bands, 1, taps))

    def forward(self, x: Tensor) -> Tensor:
        heard = torch.relu(nn.functional.conv1d(nn.functional.pad(x, (self.filters.shape[-1] - 1, 0)), self.filters))
        heard = nn.functional.pad(heard, (self.window - self.hop, 0))
        return torch.log1p(nn.functional.avg_pool1d(heard, self.window, self.hop)).unsqueeze(1)


def seeded(build, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def by_autograd(model: nn.Module, stimulus: Tensor, objective) -> Tensor:
    """d objective / d stimulus (neuron, ..., time), one neuron at a time, time ascending."""
    free = stimulus.clone().requires_grad_(True)
    values = objective(model(free[None, None])[0, :, 0])
    return torch.stack([torch.autograd.grad(value, free, retain_graph=True)[0] for value in values])


def one_backward_per_frame(
    model: nn.Module, stimulus: Tensor, lags: int, frames: Sequence[int] | None = None
) -> Tensor:
    """d response / d stimulus (neuron, frame, frequency, lag), one neuron and one frame at a time, of all or some."""
    model = copy.deepcopy(model).to(stimulus.dtype)
    if isinstance(getattr(model, "wav2spec", None), nn.Module):
        model.wav2spec = nn.Identity()
    free = stimulus.clone().requires_grad_(True)
    response = model(free[None, None])[0, :, 0]
    frames = range(response.shape[1]) if frames is None else frames
    maps = stimulus.new_zeros((len(response), len(frames), len(stimulus), lags))
    for neuron in range(response.shape[0]):
        for number, frame in enumerate(frames):
            (gradient,) = torch.autograd.grad(response[neuron, frame], free, retain_graph=True)
            past = gradient[:, max(0, frame + 1 - lags) : frame + 1].flip(-1)
            maps[neuron, number, :, : past.shape[-1]] = past
    return maps


def together(blocks) -> Tensor:
    return torch.cat([maps for _, maps in blocks], dim=1)


def relative(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    return float((got.detach() - expected.detach()).abs().max() / expected.detach().abs().max())
