"""The contract's own class: closed forms, deepSTRF's behaviour, and every check that it documents."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.gradients.encoding_model import AudioEncodingModel
from tests.gradients.planted import Kernels
from tests.zoo import AUDIO_HZ, FRONT_ENDS, HOP, N_BANDS, audio, make_prefilter, sound, spectrogram

Reference = audio.AudioEncodingModel


class Lab(AudioEncodingModel):
    """A lab's own model: kernels, then a softplus."""

    def __init__(self, n_bands=4, frames=6, n_neurons=3, nonlinear=False, **slots):
        super().__init__(n_bands, frames, n_neurons, **slots)
        self.readout = Kernels(torch.randn(n_neurons, self.C_in, n_bands, frames))
        self.nonlinear = nonlinear

    def forward(self, stimulus):
        response = super().forward(stimulus)
        return nn.functional.softplus(response) if self.nonlinear else response


class Squares(nn.Module):
    """A front-end whose bands are the sums of squares of each frame's samples, times a weight."""

    hop = 5

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", weights)
        self.out_channels = len(weights)

    def forward(self, waveform):
        energy = waveform.unflatten(-1, (-1, self.hop)).square().sum(-1)  # (batch, 1, time)
        return (energy.unsqueeze(-2) * self.weights[:, None]).reshape(len(waveform), 1, self.out_channels, -1)


def test_the_constructor_takes_what_deepstrfs_takes():
    ours, theirs = (inspect.signature(base.__init__).parameters for base in (AudioEncodingModel, Reference))
    names = [name for name, parameter in theirs.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert list(ours) == names
    assert {name: ours[name].default for name in names} == {name: theirs[name].default for name in names}
    for method in ("STRF_gradmap", "waveform_gradmap"):
        ours, theirs = (inspect.signature(getattr(base, method)) for base in (AudioEncodingModel, Reference))
        assert {n: p.default for n, p in ours.parameters.items()} == {
            n: p.default for n, p in theirs.parameters.items()
        }


def test_sizes_and_slots_are_deepstrfs():
    prefilter, front_end = make_prefilter("adaptrans", 4), Squares(torch.ones(4))
    for base in (AudioEncodingModel, Reference):
        model = base(4, 6, 3)
        assert (model.F, model.T, model.O, model.C_in) == (4, 6, 3, 1)
        assert all(type(getattr(model, slot)) is nn.Identity for slot in ("wav2spec", "prefiltering", "core"))
        assert not hasattr(model, "readout")
        full = base(4, 6, 3, prefilter, front_end)
        assert full.C_in == 2
        assert full.prefiltering is prefilter
        assert full.wav2spec is front_end


def test_numpy_integers_are_sizes():
    model = AudioEncodingModel(np.int64(4), np.int32(6))
    assert type(model.F) is int
    assert type(model.T) is int


def test_forward_goes_through_the_four_slots_in_order():
    class Named(nn.Module):
        def __init__(self, name, log):
            super().__init__()
            self.name, self.log, self.out_channels = name, log, 4

        def forward(self, x):
            self.log.append(self.name)
            return x

    log = []
    model = AudioEncodingModel(4, 6, 3, prefiltering=Named("prefiltering", log), wav2spec=Named("wav2spec", log))
    model.core, model.readout = Named("core", log), Named("readout", log)
    stimulus = torch.randn(2, 1, 4, 9)
    assert model(stimulus) is stimulus
    assert log == ["wav2spec", "prefiltering", "core", "readout"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 6, 3), ValueError, "n_frequency_bands is 0"),
        ((4, -1, 3), ValueError, "temporal_window_size is -1"),
        ((4, 6, 0), ValueError, "out_neurons is 0"),
        ((4.0, 6, 3), TypeError, "n_frequency_bands is 4.0 .float."),
        ((4, None, 3), TypeError, "temporal_window_size is None"),
        ((4, 6, True), TypeError, "out_neurons is True"),
        ((4, 6, 3, torch.relu), TypeError, "prefiltering is given .* torch.nn.Module"),
        ((4, 6, 3, None, "mel"), TypeError, "wav2spec is given 'mel'"),
        ((4, 6, 3, None, Squares(torch.ones(5))), ValueError, "out_channels is 5 and n_frequency_bands is 4"),
        ((4, 6, 3, None, nn.Linear(2, 2)), ValueError, "out_channels is None"),
    ],
)
def test_the_constructor_refuses_what_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        AudioEncodingModel(*arguments)


@pytest.mark.parametrize("slot", ["wav2spec", "prefiltering", "core", "readout"])
def test_a_slot_that_is_no_module_is_refused_when_it_is_set(slot):
    model = Lab()
    with pytest.raises(TypeError, match=rf"Lab\.{slot} is given .*function.* torch\.nn\.Module"):
        setattr(model, slot, lambda x: x)
    with pytest.raises(TypeError, match=f"Lab.{slot} is given None"):
        setattr(model, slot, None)
    model.validate()


def test_a_front_end_of_other_bands_is_refused_when_it_is_set():
    model = Lab()
    with pytest.raises(ValueError, match="Squares give 4 bands"):
        model.wav2spec = Squares(torch.ones(3))
    model.wav2spec = Squares(torch.ones(4))
    model.validate()


@pytest.mark.parametrize("name", ["O", "F", "T", "C_in"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("4", TypeError), (None, TypeError)])
def test_validate_refuses_attributes_that_a_subclass_broke(name, value, error):
    model = Lab()
    setattr(model, name, value)
    with pytest.raises(error, match=f"{name} is {value!r}"):
        model.validate()


def test_validate_wants_a_readout():
    model = AudioEncodingModel(4, 6, 3)
    with pytest.raises(ValueError, match="readout is not set"):
        model.validate()
    with pytest.raises(ValueError, match="readout is not set"):
        model(torch.zeros(1, 1, 4, 6))
    model.readout = nn.Identity()
    model.validate()


def test_validate_notices_a_slot_that_was_deleted():
    model = Lab()
    del model.core
    with pytest.raises(TypeError, match="core is given None"):
        model.validate()


def test_validate_notices_a_prefilter_of_other_channels():
    model = Lab()
    model.prefiltering = make_prefilter("adaptrans", 4)
    with pytest.raises(ValueError, match=r"C_in is 1 but prefiltering.out_channels is 2"):
        model.validate()


def test_strf_gradmap_of_a_linear_model_is_its_kernel_in_time_order():
    model = Lab().eval()
    gradmap = model.STRF_gradmap()
    assert gradmap.shape == (3, 1, 4, 6)
    assert not gradmap.requires_grad
    torch.testing.assert_close(gradmap[:, 0], model.readout.kernels[:, 0].detach().flip(-1))
    longer = model.STRF_gradmap(T=9)
    torch.testing.assert_close(longer[..., 3:], gradmap)
    assert not longer[..., :3].any()
    torch.testing.assert_close(model.STRF_gradmap(2), gradmap[..., 4:])


@settings(max_examples=10, deadline=None)
@given(n_bands=st.integers(1, 5), frames=st.integers(1, 7), n_neurons=st.integers(1, 6))
def test_strf_gradmap_is_the_negative_of_deepstrfs_for_the_same_model(n_bands, frames, n_neurons):
    ours = Lab(n_bands, frames, n_neurons, nonlinear=True).eval()
    gradmap = ours.STRF_gradmap()
    torch.testing.assert_close(gradmap, -Reference.STRF_gradmap(ours), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduce", ["last", "peak", "sum"])
@pytest.mark.parametrize("neuron", [None, 0, 2, -1])
def test_waveform_gradmap_is_deepstrfs_for_the_same_model(reduce, neuron):
    model = Lab(nonlinear=True, wav2spec=Squares(torch.rand(4))).eval()
    waveform = torch.randn(60)
    ours = model.waveform_gradmap(waveform, neuron, reduce)
    theirs = Reference.waveform_gradmap(model, waveform, None if neuron is None else neuron % 3, reduce)
    assert ours.shape == (60,)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_waveform_gradmap_of_energies_is_kernel_times_twice_the_samples():
    model = Lab(wav2spec=Squares(torch.ones(4))).eval()
    waveform = torch.randn(50)
    per_frame = model.readout.kernels[1, 0].detach().sum(0).flip(-1)  # the last six of ten frames
    expected = 2 * waveform * nn.functional.pad(per_frame, (4, 0)).repeat_interleave(5)
    torch.testing.assert_close(model.waveform_gradmap(waveform, neuron=1), expected)


@pytest.mark.parametrize("shape", [(50,), (1, 50), (1, 1, 50)])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
def test_a_stimulus_may_be_an_array_of_any_rank_deepstrf_takes(shape, kind):
    model = Lab(wav2spec=Squares(torch.ones(4))).eval()
    waveform = torch.randn(50)
    given = waveform.reshape(shape).tolist() if kind is list else kind(waveform.reshape(shape))
    torch.testing.assert_close(model.waveform_gradmap(given), model.waveform_gradmap(waveform))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stimulus": torch.zeros(2, 50)}, r"\(2, 50\), which is not one waveform"),
        ({"stimulus": torch.zeros(1, 1, 1, 50)}, "which is not one waveform"),
        ({"stimulus": torch.zeros(0)}, "which is not one waveform"),
        ({"stimulus": torch.tensor(1.0)}, "which is not one waveform"),
        ({"stimulus": torch.zeros(50), "neuron": 3}, "neuron is 3 in a model of 3 neurons"),
        ({"stimulus": torch.zeros(50), "neuron": -4}, "neuron is -4"),
        ({"stimulus": torch.zeros(50), "reduce": "mean"}, "reduce is 'mean'"),
    ],
)
def test_waveform_gradmap_refuses_what_names_nothing(arguments, message):
    model = Lab(wav2spec=Squares(torch.ones(4))).eval()
    with pytest.raises(ValueError, match=message):
        model.waveform_gradmap(**arguments)


def test_waveform_gradmap_wants_a_front_end():
    with pytest.raises(ValueError, match=r"has no front-end .* use STRF_gradmap"):
        Lab().eval().waveform_gradmap(torch.zeros(50))


@pytest.mark.parametrize("T", [0, -3])
def test_a_window_of_no_frames_is_refused(T):
    with pytest.raises(ValueError, match=f"T is {T}"):
        Lab().eval().STRF_gradmap(T)


def test_a_model_in_training_mode_is_refused_with_the_reason():
    model = Lab(wav2spec=Squares(torch.ones(4))).train()
    with pytest.raises(ValueError, match=r"training mode.*eval\(\)"):
        model.STRF_gradmap()
    with pytest.raises(ValueError, match=r"training mode.*eval\(\)"):
        model.waveform_gradmap(torch.randn(50))


def test_gradmaps_leave_a_model_as_it_was():
    model = Lab(nonlinear=True, prefiltering=make_prefilter("adaptrans", 4), wav2spec=Squares(torch.ones(4))).eval()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    slots = [getattr(model, slot) for slot in ("wav2spec", "prefiltering", "core", "readout")]
    model.STRF_gradmap()
    model.waveform_gradmap(torch.randn(50))
    assert all((parameter.grad == 7.0).all() for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(
        getattr(model, slot) is was
        for slot, was in zip(("wav2spec", "prefiltering", "core", "readout"), slots, strict=True)
    )
    assert not model.training


def test_weights_of_a_lab_model_come_back_through_a_state_dict():
    model, other = Lab().eval(), Lab().eval()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.STRF_gradmap(), model.STRF_gradmap())


def test_a_lab_model_hears_through_deepstrfs_front_ends_and_prefilters():
    model = Lab(
        N_BANDS, 6, 3, nonlinear=True, wav2spec=FRONT_ENDS["mel"](), prefiltering=make_prefilter("icadaptation")
    ).eval()
    model.validate()
    waveform = sound(12)
    assert len(waveform) == 12 * HOP == 12 * AUDIO_HZ // 100
    assert model(waveform[None, None]).shape == (1, 3, 1, 12)
    assert model.waveform_gradmap(waveform, 0).any()
    model.wav2spec = nn.Identity()
    assert model(spectrogram(12)[None, None]).shape == (1, 3, 1, 12)
