"""Numbers of dynamic STRFs against closed forms, direct computation, and the published toolboxes' values."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import pipeline.numbers.dynamic as dynamic
from pipeline.numbers.dynamic import eigen, hold_duration
from pipeline.numbers.dynamic.components import fitted_frames

REFERENCE = Path(__file__).parents[3] / "shared" / "dynamic" / "reference.npz"


def orthogonal_kernels(count, lags=12, bands=6, seed=0):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((lags * bands, count)))
    return basis.T.reshape(count, lags, bands)


def test_a_map_that_only_changes_in_strength():
    kernel = 3.0 * orthogonal_kernels(1)[0]
    slope = np.random.default_rng(1).uniform(0.2, 1.0, 80)
    maps = (slope[:, None, None] * kernel)[None]
    np.testing.assert_allclose(dynamic.gain(maps)[0], slope * 3.0)
    np.testing.assert_allclose(dynamic.gain_change(maps), slope.std(ddof=1) * 3.0)
    np.testing.assert_allclose(dynamic.complexity(maps), 1.0)
    np.testing.assert_allclose(dynamic.shape_change(maps), 1.0)
    np.testing.assert_array_equal(dynamic.temporal_hold(maps), 0.0)
    found = dynamic.components(maps, 3)
    np.testing.assert_allclose(found.component_sd[0], [slope.std(ddof=1) * 3.0, 0, 0], atol=1e-7)
    assert (found.size_90[0], found.size_95[0]) == (1, 1)


@pytest.mark.parametrize(("first", "second"), [(30, 10), (25, 25), (7, 60)])
def test_two_orthogonal_states(first, second):
    kernels = orthogonal_kernels(2)
    maps = kernels[np.repeat([0, 1], [first, second])][None]
    expected = 1 + np.sqrt(min(first, second) / max(first, second))
    np.testing.assert_allclose(dynamic.complexity(maps), expected)
    np.testing.assert_allclose(dynamic.gain_change(maps), 0.0, atol=1e-12)


def test_energy_model():
    kernels = orthogonal_kernels(2) * np.array([1.5, 0.7])[:, None, None]
    weights = np.array([1.0, 2.0])
    along = np.random.default_rng(2).standard_normal((90, 2))  # q_i . x_t
    strength = 2 * weights * along
    maps = np.einsum("ti,ilf->tlf", strength, kernels)[None]
    scaled = strength * np.linalg.norm(kernels.reshape(2, -1), axis=1)
    singular = np.linalg.svd(scaled, compute_uv=False)
    np.testing.assert_allclose(dynamic.complexity(maps), singular.sum() / singular[0])
    sd = np.linalg.svd(scaled - scaled.mean(axis=0), compute_uv=False) / np.sqrt(89)
    found = dynamic.components(maps, 3)
    np.testing.assert_allclose(found.component_sd[0, :2], sd)
    span = np.linalg.qr(kernels.reshape(2, -1).T)[0]
    inside = np.linalg.norm(found.component[0, :2].reshape(2, -1) @ span, axis=1)
    np.testing.assert_allclose(inside, 1.0)


def travelling(period, seed=0, lags=20, bands=12, frames=90):
    kernel = np.random.default_rng(seed).standard_normal((lags, bands))
    kernel[lags - 8 :] = 0  # room to travel without coming round
    return np.stack([np.roll(kernel, t % period, axis=0) for t in range(frames)])[None]


@pytest.mark.parametrize("period", [3, 5, 6, 9])
def test_a_kernel_that_travels_with_the_sound_keeps_its_shape_and_holds_for_less_than_its_period(period):
    maps = travelling(period)
    np.testing.assert_allclose(dynamic.shape_change(maps), 1.0, atol=1e-6)
    assert 1 <= dynamic.temporal_hold(maps)[0] < period


@pytest.mark.parametrize("seed", range(3))
def test_temporal_hold_is_the_statistic_as_it_is_defined(seed):
    rng = np.random.default_rng(seed)
    maps = travelling(5, seed) + 0.7 * rng.standard_normal((1, 90, 20, 12))
    longest = hold_duration.longest_hold(20)
    padded = np.pad(maps[0], ((0, 0), (longest, 0), (0, 0)))
    held = 0
    for delay in range(1, longest + 1):
        moved = np.pad(padded[delay:, delay:], ((0, 0), (0, delay), (0, 0)))
        frames = range(90 - longest)
        stays = [np.corrcoef(padded[t].ravel(), padded[t + delay].ravel())[0, 1] for t in frames]
        travels = [np.corrcoef(padded[t].ravel(), moved[t].ravel())[0, 1] for t in frames]
        if stats.wilcoxon(travels, stays, alternative="greater").pvalue >= 0.001:
            break
        held = delay
    assert dynamic.temporal_hold(maps)[0] == held > 0


def test_shape_change_undoes_moves_that_differ_from_frame_to_frame():
    rng = np.random.default_rng(0)
    kernel = np.zeros((30, 5))
    kernel[10:14] = rng.uniform(0.5, 1.0, (4, 5))
    maps = np.stack([np.roll(kernel, move, axis=0) for move in rng.integers(-6, 7, 60)])[None]
    assert dynamic.complexity(maps)[0] > 3
    np.testing.assert_allclose(dynamic.shape_change(maps), 1.0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(2, 12), st.integers(1, 4), st.integers(1, 4)),
        elements=st.floats(-5, 5, width=16),
    ),
    st.integers(1, 8),
)
def test_components_are_those_of_a_singular_value_decomposition(maps, count):
    found = dynamic.components(maps, count)
    for one, axes, sd, above, noise in zip(
        maps, found.component, found.component_sd, found.above_floor, found.noise_floor, strict=True
    ):
        matrix = one.reshape(len(one), -1)
        fitted = matrix[fitted_frames(matrix)]
        centred = fitted - fitted.mean(axis=0)
        values = np.linalg.svd(centred, compute_uv=False) ** 2 / (len(centred) - 1)
        expected = np.pad(values, (0, count))[:count]
        np.testing.assert_allclose(sd**2, expected, atol=1e-9 * max(1.0, values[0]))
        norms = np.linalg.norm(axes.reshape(count, -1), axis=1)
        np.testing.assert_allclose(norms, np.where(sd > 0, 1.0, 0.0), atol=1e-6)
        assert (axes.sum(axis=(1, 2)) >= -1e-9).all()
        assert above == (values > noise).sum() or noise == 0
        projected = (centred @ axes.reshape(count, -1).T).std(axis=0, ddof=1)
        np.testing.assert_allclose(projected, sd, atol=1e-6 * max(1.0, np.sqrt(values[0])))


def test_the_mean_map_as_the_first_component():
    rng = np.random.default_rng(3)
    kernels = orthogonal_kernels(3)
    strength = np.stack([2 + rng.standard_normal(50), rng.standard_normal(50), 0.5 * rng.standard_normal(50)], axis=1)
    strength[:, 1:] -= strength[:, 1:].mean(axis=0)
    maps = np.einsum("ti,ilf->tlf", strength, kernels)[None]
    found = dynamic.components(maps, 3, first_component="mean")
    cosine = abs((found.component[0, 0] * kernels[0]).sum())
    np.testing.assert_allclose(cosine, 1.0)
    np.testing.assert_allclose(found.component_sd[0, 0], strength[:, 0].std(ddof=1))
    rest = np.linalg.svd(strength[:, 1:], compute_uv=False) / np.sqrt(49)
    np.testing.assert_allclose(found.component_sd[0, 1:], rest)


def test_frames_far_from_the_mean_are_left_out_of_the_fit():
    rng = np.random.default_rng(4)
    kernels = orthogonal_kernels(2)
    maps = (10 + rng.standard_normal((60, 1, 1))) * kernels[0] + np.zeros((60, 1, 1))
    maps[7] = 1e4 * kernels[1]
    found = dynamic.components(maps[None], 1)
    np.testing.assert_allclose(abs((found.component[0, 0] * kernels[0]).sum()), 1.0)


@pytest.mark.parametrize(("frames", "entries"), [(200, 300), (400, 150)])
def test_the_noise_floor_is_what_shuffling_over_time_gives(frames, entries):
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((frames, entries)) * np.sqrt(rng.gamma(1.0, 1.0, entries))
    tops = []
    for _ in range(10):
        shuffled = rng.permuted(matrix, axis=0)
        tops.append(np.linalg.svd(shuffled - shuffled.mean(axis=0), compute_uv=False)[0] ** 2 / (frames - 1))
    expected = dynamic.noise_floor(matrix.var(axis=0, ddof=1)[None], frames)[0]
    assert np.mean(tops) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("frames", "ratio"), [(50, 0.1), (50, 30.0), (2, 4.0)])
def test_the_noise_floor_of_equal_variances_is_the_edge_of_marchenko_and_pastur(frames, ratio):
    entries = int(frames * ratio)
    found = dynamic.noise_floor(np.full((1, entries), 2.0), frames)[0]
    assert found == pytest.approx(2.0 * (1 + np.sqrt(entries / frames)) ** 2)


def test_large_matrices_have_the_eigenvalues_of_small_ones():
    rng = np.random.default_rng(6)
    factor = rng.standard_normal((900, 700)) * 0.97 ** np.arange(700)
    matrix = factor.T @ factor
    values, vectors = eigen.leading(matrix, 12)
    expected = np.linalg.eigvalsh(matrix)[::-1]
    assert len(matrix) > eigen.LARGE
    np.testing.assert_allclose(values[:12], expected[:12], rtol=1e-11)
    np.testing.assert_allclose(values, expected, atol=1e-5 * expected[0])
    np.testing.assert_allclose(matrix @ vectors, vectors * values[:12], atol=1e-5 * expected[0])


def test_population_components_hold_what_their_share_says():
    rng = np.random.default_rng(7)
    kernels = orthogonal_kernels(3)
    inside = np.einsum("nti,ilf->ntlf", 2 + rng.standard_normal((4, 50, 2)), kernels[:2])
    apart = np.einsum("nt,lf->ntlf", 1 + 0.1 * rng.standard_normal((1, 50)), kernels[2])
    blocks = [inside[:3], np.concatenate([inside[3:], apart])]
    found = dynamic.population_components(lambda: blocks, 2)
    np.testing.assert_allclose(found.share, [1, 1, 1, 1, 0], atol=1e-9)
    together = np.concatenate([one.reshape(50, -1) - one.reshape(50, -1).mean(axis=0) for b in blocks for one in b])
    expected = np.linalg.svd(together, compute_uv=False)[:2] / np.sqrt(49 * 5)
    np.testing.assert_allclose(found.component_sd, expected)


def test_local_linearity_of_a_linear_model_is_one():
    rng = np.random.default_rng(8)
    sound, kernel = rng.standard_normal((6, 70)), rng.standard_normal((9, 6))
    windows = dynamic.stimulus_windows(sound, 9)
    response = 4.0 + np.einsum("tlf,lf->t", windows, kernel)
    direct = [sum(sound[:, t - lag] @ kernel[lag] for lag in range(min(9, t + 1))) + 4.0 for t in range(70)]
    np.testing.assert_allclose(response, direct)
    maps = np.broadcast_to(kernel, (1, 70, 9, 6))
    np.testing.assert_allclose(dynamic.local_linearity(maps, windows, response[None]), 1.0)
    np.testing.assert_array_equal(dynamic.stimulus_windows(sound, 9, np.array([3, 40])), windows[[3, 40]])


def test_maps_that_are_zero_have_no_complexity_and_no_error():
    maps = np.zeros((2, 40, 12, 3))
    assert np.isnan(dynamic.complexity(maps)).all()
    assert np.isnan(dynamic.shape_change(maps)).all()
    np.testing.assert_array_equal(dynamic.temporal_hold(maps), 0.0)
    found = dynamic.components(maps, 2)
    assert not found.component.any()
    assert not found.component_sd.any()
    for number in (found.noise_floor, found.above_floor, found.size_90, found.size_95):
        assert not number.any()


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (np.zeros((3, 4, 5)), r"shape \(3, 4, 5\).*neuron, time, lag, frequency"),
        (np.zeros((1, 1, 5, 2)), "1 frames"),
        (np.full((2, 4, 5, 2), np.nan), r"\[0, 1\].*not finite"),
    ],
)
def test_what_is_no_dynamic_strf_is_refused(maps, words):
    with pytest.raises(ValueError, match=words):
        dynamic.gain_change(maps)


@pytest.mark.parametrize(
    "room", ["alignment", "components", "floor", "gain", "hold_duration", "shared_components", "spectrum"]
)
def test_examples(room):
    # By name, since a function of the package hides the module that it lies in.
    found = doctest.testmod(importlib.import_module(f"pipeline.numbers.dynamic.{room}"))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.skipif(not REFERENCE.exists(), reason="the published toolboxes' values are not part of the repository")
class TestPublishedToolboxes:
    values = property(lambda self: np.load(REFERENCE))

    @pytest.mark.parametrize("measure", ["complexity", "gain_change", "temporal_hold", "shape_change"])
    def test_measure(self, measure):
        found = getattr(dynamic, measure)(self.values["maps"])
        np.testing.assert_allclose(found, self.values[measure], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("first", "key"), [("principal", "component_sd"), ("mean", "component_sd_first_mean")])
    def test_components(self, first, key):
        found = dynamic.components(self.values["maps"], self.values[key].shape[1], first_component=first)
        np.testing.assert_allclose(found.component_sd, self.values[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_the_test_of_temporal_hold_is_scipys(seed):
    rng = np.random.default_rng(seed)
    count = (20, 50, 51, 90, 300, 1000)[seed]
    for step in (1e-9, 0.5, 2.0):  # with ties and zeros
        difference = np.round((rng.standard_normal(count) + 0.15) / step) * step
        expected = stats.wilcoxon(difference, alternative="greater").pvalue
        np.testing.assert_allclose(hold_duration.wilcoxon_above(difference), expected, rtol=1e-12)
