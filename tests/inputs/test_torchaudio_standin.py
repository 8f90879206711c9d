"""The stand-in computes what torchaudio documents, against scipy and closed forms."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from pipeline.inputs.torchaudio_standin import ensure_lightning, ensure_torchaudio, is_standin, lfilter, melscale_fbanks


def stable_filters(rng, n_filters, order):
    """Denominators with poles inside the unit circle, numerators of any sign."""
    radius, angle = rng.uniform(0.3, 0.97, (n_filters, order // 2)), rng.uniform(0.1, 3.0, (n_filters, order // 2))
    denominators = []
    for filter_index in range(n_filters):
        poles = radius[filter_index] * np.exp(1j * angle[filter_index])
        roots = np.concatenate([poles, poles.conj(), rng.uniform(-0.9, 0.9, order % 2)])
        denominators.append(np.atleast_1d(np.real(np.poly(roots))) * rng.uniform(0.5, 2.0))
    return np.stack(denominators), rng.normal(size=(n_filters, order + 1))


@settings(max_examples=40, deadline=None)
@given(n_samples=st.integers(1, 300), order=st.integers(0, 5), n_filters=st.integers(1, 4), seed=st.integers(0, 1000))
def test_lfilter_equals_scipy_at_any_length_and_order(n_samples, order, n_filters, seed):
    rng = np.random.default_rng(seed)
    a, b = stable_filters(rng, n_filters, order)
    waveform = rng.normal(size=(2, n_filters, n_samples))
    ours = lfilter(torch.tensor(waveform), torch.tensor(a), torch.tensor(b), clamp=False)
    for index in range(n_filters):
        theirs = signal.lfilter(b[index], a[index], waveform[:, index])
        np.testing.assert_allclose(ours[:, index], theirs, rtol=1e-8, atol=1e-8 * max(1.0, np.abs(theirs).max()))


def test_lfilter_in_float32_stays_with_float64_over_a_long_sound():
    rng = np.random.default_rng(0)
    pole = 0.985 * np.exp(0.12j)
    a, b = np.real(np.poly([pole, pole.conj()])), np.array([0.02, -0.01, 0.005])
    waveform = rng.normal(size=32_000)
    ours = lfilter(*(torch.tensor(part, dtype=torch.float32) for part in (waveform, a, b)), clamp=False)
    a32, b32, x32 = (part.astype(np.float32).astype(np.float64) for part in (a, b, waveform))
    theirs = signal.lfilter(b32, a32, x32)
    assert np.abs(ours.numpy() - theirs).max() < 5e-6 * np.abs(theirs).max()


def test_one_filter_per_row_every_filter_on_one_row_and_the_clamp():
    waveform = torch.randn(3, 50, dtype=torch.float64)
    a, b = (torch.tensor(part) for part in stable_filters(np.random.default_rng(1), 3, 2))
    rows = lfilter(waveform, a, b, clamp=False)
    every = lfilter(waveform, a, b, clamp=False, batching=False)
    assert every.shape == (3, 3, 50)
    torch.testing.assert_close(torch.stack([every[i, i] for i in range(3)]), rows)
    torch.testing.assert_close(lfilter(waveform[0], a[0], b[0], clamp=False), rows[0])
    torch.testing.assert_close(lfilter(waveform, a, b), rows.clamp(-1, 1))


def test_gradients_to_waveform_and_coefficients_are_those_of_finite_differences():
    waveform = torch.randn(2, 19, dtype=torch.float64, requires_grad=True)
    a, b = (torch.tensor(part).requires_grad_(True) for part in stable_filters(np.random.default_rng(2), 2, 2))
    assert torch.autograd.gradcheck(
        lambda *given: lfilter(*given, clamp=False), (waveform, a, b), check_batched_grad=True, fast_mode=True
    )


def test_forward_mode_filters_the_tangent():
    a, b = (torch.tensor(part) for part in stable_filters(np.random.default_rng(2), 3, 2))
    waveform, tangent = torch.randn(2, 3, 37, dtype=torch.float64)
    _, moved = torch.func.jvp(lambda sound: lfilter(sound, a, b, clamp=False, batching=False), (waveform,), (tangent,))
    torch.testing.assert_close(moved, lfilter(tangent, a, b, clamp=False, batching=False))


def test_vmap_over_waveforms_and_over_filters_changes_nothing():
    a, b = (torch.tensor(part) for part in stable_filters(np.random.default_rng(3), 4, 2))
    waveforms = torch.randn(5, 4, 60, dtype=torch.float64)
    whole = lfilter(waveforms, a, b, clamp=False)
    torch.testing.assert_close(torch.func.vmap(lambda sound: lfilter(sound, a, b, clamp=False))(waveforms), whole)
    one = torch.func.vmap(lambda a, b: lfilter(waveforms[0, 0], a, b, clamp=False))(a, b)
    torch.testing.assert_close(one, lfilter(waveforms[0, 0], a, b, clamp=False, batching=False))


def test_the_backward_pass_is_the_filter_run_backwards_in_time():
    a, b = torch.tensor([1.0, -0.975], dtype=torch.float64), torch.tensor([0.025, 0.0], dtype=torch.float64)
    waveform = torch.randn(400, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(400, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(lfilter(waveform, a, b, clamp=False), waveform, cotangent)
    torch.testing.assert_close(gradient, lfilter(cotangent.flip(-1), a, b, clamp=False).flip(-1))


@pytest.mark.parametrize(
    ("waveform", "a", "b", "message"),
    [
        (torch.zeros(4), torch.ones(2), torch.ones(3), "do not describe one filter"),
        (torch.zeros(4, dtype=torch.int64), torch.ones(2), torch.ones(2), "cannot be filtered"),
        (torch.zeros(2, 4), torch.ones(3, 2), torch.ones(3, 2), "no row for each of 3 filters"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused(waveform, a, b, message):
    with pytest.raises(ValueError, match=message):
        lfilter(waveform, a, b)


def by_interpolation(n_freqs, f_min, f_max, n_mels, sample_rate, norm, to_mel, to_hz):
    """Triangles drawn by np.interp between their three corners."""
    bins = np.arange(n_freqs) * (sample_rate // 2) / (n_freqs - 1)
    corners = to_hz(np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2))
    filters = []
    for low, centre, high in zip(corners, corners[1:], corners[2:], strict=False):
        height = 2 / (high - low) if norm else 1.0
        filters.append(np.interp(bins, [low, centre, high], [0.0, height, 0.0], left=0.0, right=0.0))
    return np.stack(filters, axis=1)


def slaney_to_mel(hz):
    hz = np.asarray(hz, dtype=float)
    return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def slaney_to_hz(mel):
    mel = np.asarray(mel, dtype=float)
    return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))


SCALES = {
    "htk": (lambda hz: 1127.0 * np.log1p(hz / 700.0), lambda mel: 700.0 * np.expm1(np.asarray(mel) / 1127.0)),
    "slaney": (slaney_to_mel, slaney_to_hz),
}


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
def test_mel_filters_are_triangles_with_corners_even_on_the_scale(mel_scale, norm):
    ours = melscale_fbanks(401, 80.0, 7600.0, 24, 16_000, norm=norm, mel_scale=mel_scale)
    theirs = by_interpolation(401, 80.0, 7600.0, 24, 16_000, norm, *SCALES[mel_scale])
    assert ours.dtype == torch.float32
    # 2595 log10 and 1127 ln are the same scale to four digits
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.max())
    if norm:
        np.testing.assert_allclose(ours.sum(dim=0) * 20.0, 1.0, atol=0.06)


def test_a_mel_band_between_two_bins_is_reported():
    with pytest.warns(UserWarning, match="are zero for every sound"):
        melscale_fbanks(33, 50.0, 4000.0, 64, 8_000)


@pytest.mark.parametrize("argument", [{"norm": "area"}, {"mel_scale": "bark"}])
def test_unknown_mel_conventions_are_refused(argument):
    with pytest.raises(ValueError, match=next(iter(argument.values()))):
        melscale_fbanks(33, 50.0, 4000.0, 8, 8_000, **argument)


def run(program):
    strict = "import warnings; warnings.filterwarnings('error', module='pipeline')\n"
    return subprocess.run([sys.executable, "-c", strict + program], capture_output=True, text=True, check=False)


BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "torchaudio._extension" or name == "torchaudio":
            if {whole} or name != "torchaudio":
                raise {error}("refused for this test")
sys.meta_path.insert(0, Refuse())
"""

CHECK = """
from pipeline.inputs.torchaudio_standin import ensure_torchaudio, is_standin
assert ensure_torchaudio() is False
import importlib.util, torchaudio, torchaudio.functional as functional
assert is_standin(torchaudio) and functional.lfilter and importlib.util.find_spec("torchaudio")
assert sorted(name for name in sys.modules if name.startswith("torchaudio")) == ["torchaudio", "torchaudio.functional"]
assert ensure_torchaudio() is False and sys.modules["torchaudio"] is torchaudio
try:
    torchaudio.functional.resample
except AttributeError as error:
    assert "refused for this test" in str(error) and "soundfile" in str(error), error
else:
    raise SystemExit("resample should not be there")
"""


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_a_failed_import_leaves_only_the_stand_in(error):
    finished = run(BLOCKED.format(whole=True, error=error) + CHECK)
    assert finished.returncode == 0, finished.stderr


SOME_TORCHAUDIO = """
import torch
melscale_fbanks = None
def lfilter(waveform, a, b, clamp=True):
    assert (a.tolist(), b.tolist(), clamp) == ([1.0, -0.5], [1.0, 0.0], False)
    heard = [waveform[0]]
    for sample in waveform[1:]:
        heard.append(sample + 0.5 * heard[-1])
    return torch.stack(heard)
"""

#: As torchaudio's own without its compiled part: it filters, but edits what the backward pass needs.
IN_PLACE = (
    SOME_TORCHAUDIO
    + """
def lfilter(waveform, a, b, clamp=True):
    heard = waveform * 1.0
    squared = heard * heard
    for n in range(1, len(heard)):
        heard[n] += 0.5 * heard[n - 1]
    return heard + 0.0 * squared
"""
)

WRONG = SOME_TORCHAUDIO.replace("0.5 * heard", "0.25 * heard")


def ensuring(folder, functional, *lines):
    """What a process says that has such a torchaudio."""
    package = folder / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '9'\n")
    (package / "functional.py").write_text(functional)
    program = [
        f"import sys; sys.path.insert(0, {str(folder)!r})",
        "from pipeline.inputs.torchaudio_standin import ensure_torchaudio, is_standin",
        *lines,
    ]
    return run("\n".join(program))


def test_torchaudio_that_works_is_left_alone(tmp_path):
    finished = ensuring(
        tmp_path,
        SOME_TORCHAUDIO,
        "assert ensure_torchaudio() is True and ensure_torchaudio() is True",
        "import torchaudio; assert torchaudio.__version__ == '9'",
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("before", ["", "import torchaudio.functional"], ids=["new", "imported before"])
@pytest.mark.parametrize("functional", [IN_PLACE, WRONG], ids=["in place", "wrong"])
def test_torchaudio_that_loads_and_does_not_work_is_replaced(tmp_path, functional, before):
    finished = ensuring(
        tmp_path,
        functional,
        before,
        "assert ensure_torchaudio() is False and ensure_torchaudio() is False",
        "import torchaudio, torchaudio.functional as functional",
        "from pipeline.inputs.torchaudio_standin import lfilter",
        "assert is_standin(torchaudio) and functional.lfilter is lfilter",
    )
    assert finished.returncode == 0, finished.stderr


def test_here_one_of_the_two_is_in_place():
    own = ensure_torchaudio()
    assert is_standin(sys.modules["torchaudio"]) is not own
    assert importlib.util.find_spec("torchaudio") is not None


def test_lightning_has_its_decorator_either_way():
    own = ensure_lightning()
    from pytorch_lightning.utilities import rank_zero_only

    assert is_standin(sys.modules["pytorch_lightning"]) is not own
    assert rank_zero_only(lambda: 3)() == 3
