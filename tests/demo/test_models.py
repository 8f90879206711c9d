"""The demo's models keep the contract."""

import json

import pytest
import torch

from pipeline.demo.ear import bandwidths, gammatone_kernels, log_frequencies, log_spectrogram
from pipeline.demo.models import LearnableFilterbank, LinearNonlinearModel, RecurrentModel, WaveformModel

CONSTRUCTIONS = [
    (LinearNonlinearModel, {"n_frequency_bands": 6, "temporal_window_size": 5, "out_neurons": 3}, (6, 12)),
    (RecurrentModel, {"n_frequency_bands": 6, "temporal_window_size": 5, "out_neurons": 3, "hidden": 7}, (6, 12)),
    (WaveformModel, {"n_frequency_bands": 6, "temporal_window_size": 5, "out_neurons": 3}, (12 * 80,)),
]


def built(model_class, arguments):
    torch.manual_seed(0)
    return model_class(**arguments).eval()


@pytest.mark.parametrize(("model_class", "arguments", "shape"), CONSTRUCTIONS)
def test_models_keep_the_contract(model_class, arguments, shape):
    model = built(model_class, arguments)
    model.validate()
    assert (model.O, model.F, model.T, model.C_in) == (3, 6, 5, 1)
    assert model(torch.randn(2, 1, *shape)).shape == (2, 3, 1, 12)


@pytest.mark.parametrize(("model_class", "arguments", "shape"), CONSTRUCTIONS)
def test_a_response_depends_on_no_later_sound(model_class, arguments, shape):
    model = built(model_class, arguments).double()
    stimulus = torch.randn(1, 1, *shape, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda sound: model(sound)[0, :, 0].sum(0), stimulus)
    reach = rows[:, 0, 0].reshape(12, *shape).abs()
    per_frame = reach.sum(1) if len(shape) == 2 else reach.reshape(12, 12, 80).sum(-1)  # response frame, stimulus frame
    assert per_frame.triu(1).count_nonzero() == 0
    assert per_frame.diagonal().min() > 0


@pytest.mark.parametrize(("model_class", "arguments", "shape"), CONSTRUCTIONS)
def test_a_model_is_rebuilt_from_json_arguments_and_its_weights(model_class, arguments, shape):
    model = built(model_class, arguments)
    with torch.no_grad():
        for value in model.state_dict().values():
            value += 0.01 * torch.rand_like(value)
    again = model_class(**json.loads(json.dumps(arguments))).eval()
    again.load_state_dict(model.state_dict())
    stimulus = torch.randn(1, 1, *shape)
    torch.testing.assert_close(again(stimulus), model(stimulus), rtol=0, atol=0)


def test_the_front_end_starts_as_the_ear_and_is_causal_to_the_sample():
    front_end = LearnableFilterbank(8, 8000, 80, 200.0, 3000.0).double()
    sound = 0.1 * torch.randn(10 * 80, dtype=torch.float64)
    expected = log_spectrogram(sound.numpy(), gammatone_kernels(log_frequencies(200.0, 3000.0, 8), 8000, 256), 80)
    torch.testing.assert_close(front_end(sound[None, None])[0, 0], torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    reach = torch.autograd.functional.jacobian(lambda x: front_end(x[None, None])[0, 0].sum(0), sound).abs()
    last_heard = [int(row.nonzero().max()) for row in reach]
    assert all(last < (frame + 1) * 80 for frame, last in enumerate(last_heard))
    # The newest sample enters a gammatone with weight 0, so the one before it is the newest that counts.
    assert last_heard == [(frame + 1) * 80 - 2 for frame in range(10)]


def test_the_front_end_is_trained_with_the_model():
    model = built(WaveformModel, CONSTRUCTIONS[2][1]).train()
    model(torch.randn(1, 1, 800)).square().sum().backward()
    for name, parameter in model.wav2spec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert {"out_channels", "hop", "audio_fs"} <= set(vars(model.wav2spec))


def test_a_calibrated_front_end_gives_zero_mean_and_unit_variance():
    front_end = LearnableFilterbank(5, 8000, 80, 200.0, 3000.0)
    sounds = 0.1 * torch.randn(3, 1, 4000)
    front_end.calibrate(sounds)
    levels = front_end(sounds)[:, 0]
    torch.testing.assert_close(levels.mean(dim=(0, 2)), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(levels.std(dim=(0, 2)), torch.ones(5), atol=1e-3, rtol=0)


def test_silence_has_a_finite_gradient():
    front_end = LearnableFilterbank(5, 8000, 80, 200.0, 3000.0)
    silence = torch.zeros(1, 1, 800, requires_grad=True)
    (gradient,) = torch.autograd.grad(front_end(silence).sum(), silence)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(800,), (1, 800), (1, 2, 800), (1, 1, 801), (1, 1, 0)])
def test_the_front_end_refuses_what_is_not_whole_frames_of_one_channel(shape):
    with pytest.raises(ValueError, match="cut or pad the sound"):
        LearnableFilterbank(5, 8000, 80, 200.0, 3000.0)(torch.zeros(shape))


def test_the_front_end_refuses_a_hop_it_cannot_read():
    with pytest.raises(ValueError, match="multiple of 8"):
        LearnableFilterbank(5, 8000, 81, 200.0, 3000.0)


def test_bandwidths_grow_with_frequency_from_a_least_one():
    narrow, wide = bandwidths(torch.tensor([100.0, 3000.0]).numpy())
    assert narrow == 60.0
    assert wide == pytest.approx(24.7 * (4.37e-3 * 3000.0 + 1.0))
