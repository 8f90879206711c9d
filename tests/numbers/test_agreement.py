"""Agreement between checkpoints and geometry of populations, against direct computations and planted truth."""

from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.ndimage import gaussian_filter

from pipeline.numbers import agreement
from pipeline.numbers.stats import benjamini_hochberg
from tests.numbers.planted import Gabor

FREQUENCY = np.geomspace(200.0, 6400.0, 11)
LAG = np.arange(14) * 10.0


def population(architectures=("linear", "gru"), seeds=4, neurons=5, noise=0.5, difference=0.0, rng=0):
    """Maps of one field per neuron; each architecture adds a field of its own, each seed its own noise and gain."""
    rng = np.random.default_rng(rng)
    values, labels, numbers = [], [], []
    fields = [
        Gabor(best_frequency=400.0 * 1.5**n, latency_ms=30.0 + 5 * n, sigma_ms=15).at(FREQUENCY, LAG)
        for n in range(neurons)
    ]
    for architecture in architectures:
        own = difference * rng.standard_normal((neurons, 11, 14))
        for seed in range(seeds):
            gain = rng.uniform(0.5, 3)
            values.append(gain * (np.stack(fields) + own + noise * rng.standard_normal((neurons, 11, 14))))
            labels.append(architecture)
            numbers.append(seed)
    return xr.DataArray(
        np.stack(values).astype("f4"),
        dims=("checkpoint", "neuron", "frequency", "lag"),
        coords={
            "checkpoint": [f"{a}-{s}" for a, s in zip(labels, numbers, strict=True)],
            "architecture": ("checkpoint", labels),
            "seed": ("checkpoint", numbers),
            "neuron": [f"n{n}" for n in range(neurons)],
            "depth_um": ("neuron", 100.0 * np.arange(neurons)),
            "site": ("neuron", [f"s{n // 2}" for n in range(neurons)]),
            "frequency": FREQUENCY,
            "lag": LAG,
        },
    )


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def test_reliability_is_the_mean_of_all_pairwise_correlations():
    maps = population(seeds=4)
    found = agreement.reliability(maps, "architecture", n_null=20)
    assert found["reliability"].dims == ("architecture", "neuron")
    assert (found["n_pairs"] == 6).all()
    for architecture in ("linear", "gru"):
        for neuron in maps.neuron.values:
            part = maps.sel(neuron=neuron).where(maps.architecture == architecture, drop=True)
            pairs = [correlation(a, b) for a, b in combinations(part.values, 2)]
            assert len(pairs) == 6
            np.testing.assert_allclose(
                found["reliability"].sel(architecture=architecture, neuron=neuron), np.mean(pairs), atol=1e-6
            )


def test_reliability_without_groups_takes_all_checkpoints_and_keeps_the_neurons_labels():
    maps = population(seeds=2)
    found = agreement.reliability(maps, n_null=10)
    assert found["reliability"].dims == ("neuron",)
    assert (found["n_pairs"] == 6).all()
    assert list(found["site"].values) == list(maps["site"].values)


def test_several_coordinates_make_groups_of_their_combinations():
    maps = population(seeds=4).assign_coords(fold=("checkpoint", [0, 0, 1, 1] * 2))
    found = agreement.reliability(maps, ["architecture", "fold"], n_null=5)
    assert found.sizes["group"] == 4
    assert list(found["fold"].values) == [0, 1, 0, 1]
    assert (found["n_pairs"] == 1).all()


@pytest.mark.parametrize("null", ["shift", "entries"])
def test_planted_fields_are_reliable_and_noise_is_not(null):
    field = agreement.reliability(population(noise=0.3), "architecture", null=null, n_null=99)
    assert (field["p_value"] == 0.01).all()
    assert (field["z"] > 3).all()
    empty = population(noise=0.0)
    noise = empty.copy(data=np.random.default_rng(1).standard_normal(empty.shape))
    assert agreement.reliability(noise, "architecture", null=null, n_null=99)["p_value"].mean() > 0.3


def unrelated(kind, rng, checkpoints, neurons, bands=12, lags=15):
    """Maps of which no two have more in common than where they have their energy and how smooth they are."""
    values = rng.standard_normal((checkpoints, neurons, bands, lags))
    if kind == "smooth":
        values = gaussian_filter(values, (0, 0, 1.5, 1.5))
    elif kind == "decaying":
        values *= np.exp(-np.arange(lags) / 4.0)
    elif kind == "blobs":
        band, lag = (rng.uniform(0, top, (checkpoints, neurons, 1, 1)) for top in (bands, lags / 2))
        values = np.exp(-0.5 * ((np.arange(bands)[:, None] - band) / 2) ** 2 - 0.5 * ((np.arange(lags) - lag) / 2) ** 2)
    return xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"))


@pytest.mark.parametrize("kind", ["white", "smooth", "decaying", "blobs"])
@pytest.mark.parametrize(("checkpoints", "neurons"), [(2, 60), (4, 10), (5, 3)])
def test_unrelated_maps_are_reliable_as_often_as_chance_says(kind, checkpoints, neurons):
    rng = np.random.default_rng([checkpoints, neurons, len(kind)])
    found = [
        agreement.reliability(unrelated(kind, rng, checkpoints, neurons), n_null=200)["p_value"].values
        for _ in range(600 // neurons)
    ]
    share = np.mean(np.concatenate(found) <= 0.05)
    # neurons of one population share their null sets, so that they count for less than as many draws
    assert 0.05 - 4 * 0.009 <= share <= 0.05 + 4 * 0.009


def test_a_truth_of_a_neuron_s_own_is_found_at_a_signal_to_noise_ratio_of_one():
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.standard_normal((60, 12, 15)), (0, 1, 1))
    truth /= truth.std(axis=(1, 2), keepdims=True)
    maps = unrelated("white", rng, 3, 60) + truth
    found = agreement.reliability(maps)
    assert (found["p_value"] <= 0.05).mean() >= 0.9
    assert (benjamini_hochberg(found["p_value"]) < 0.05).mean() >= 0.9


def test_one_reliable_neuron_among_sixty_is_found_and_the_resolution_is_said():
    rng = np.random.default_rng(0)
    maps = unrelated("white", rng, 3, 60)
    maps[:, 7] = maps[0, 7] + 0.1 * maps[:, 7]
    found = agreement.reliability(maps)
    assert np.flatnonzero(benjamini_hochberg(found["p_value"]) < 0.05).tolist() == [7]
    assert (found["p_smallest"] * 60 < 0.05).all()
    few = agreement.reliability(maps[:2, :3])
    np.testing.assert_allclose(few["p_smallest"], 1 / (1 + 3 * 2))


def test_what_all_neurons_share_is_no_neuron_s_own():
    rng = np.random.default_rng(0)
    shared = 2 * gaussian_filter(rng.standard_normal((12, 15)), 1.5)
    shared /= shared.std()
    maps = unrelated("white", rng, 4, 40) + shared
    found = agreement.reliability(maps)
    assert float(found["reliability"].mean()) == pytest.approx(0.5, abs=0.05)
    assert float(found["common"][0]) == pytest.approx(float(found["reliability"].mean()), abs=0.02)
    assert abs(float(found["specific"].mean())) < 0.03
    assert (found["p_value"] <= 0.05).mean() <= 0.15
    own = gaussian_filter(rng.standard_normal((40, 12, 15)), (0, 1, 1))
    both = agreement.reliability(maps + own / own.std())
    assert float(both["common"][0]) == pytest.approx(1 / 3, abs=0.05)
    assert float(both["specific"].mean()) == pytest.approx(0.5, abs=0.06)
    assert (both["p_value"] <= 0.05).mean() >= 0.9


def test_a_neuron_alone_has_a_reliability_and_no_null_of_others():
    found = agreement.reliability(population(neurons=1), "architecture")
    assert np.isfinite(found["reliability"]).all()
    assert found["p_value"].isnull().all()
    assert (
        agreement.reliability(population(neurons=1), "architecture", null="shift", n_null=9)["p_value"].notnull().all()
    )


def smooth_noise(rng, *shape):
    """Noise that is smooth round the ends of both axes."""
    spectrum = np.fft.fft2(rng.standard_normal(shape))
    f, k = np.fft.fftfreq(shape[-2])[:, None], np.fft.fftfreq(shape[-1])[None, :]
    return np.fft.ifft2(spectrum * np.exp(-30 * (f**2 + k**2))).real


def test_the_shift_null_keeps_its_level_for_smooth_maps_and_permuted_entries_do_not():
    values = smooth_noise(np.random.default_rng(0), 3, 300, 11, 14)
    maps = xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"))
    shifted = agreement.reliability(maps, n_null=99, null="shift")["p_value"]
    assert 0.02 <= float((shifted <= 0.05).mean()) <= 0.09
    permuted = agreement.reliability(maps.isel(neuron=slice(100)), n_null=49, null="entries")["p_value"]
    assert (permuted <= 0.05).mean() > 0.15


def test_the_shifted_null_equals_rolled_maps():
    from pipeline.numbers.agreement.grouping import standardised
    from pipeline.numbers.agreement.nulls import shifted

    maps = np.random.default_rng(0).standard_normal((3, 5, 7))
    rows = standardised(maps.reshape(3, -1))
    values = shifted(rows, (5, 7), 4, np.random.default_rng(9))
    rng = np.random.default_rng(9)
    shifts = np.stack([rng.integers(5, size=(4, 3)), rng.integers(7, size=(4, 3))], axis=-1)
    for draw in range(4):
        rolled = [np.roll(map_, shift, (0, 1)) for map_, shift in zip(maps, shifts[draw], strict=True)]
        np.testing.assert_allclose(values[draw], np.mean([correlation(a, b) for a, b in combinations(rolled, 2)]))


def test_reliability_does_not_depend_on_blocks_dask_or_the_order_of_dimensions(monkeypatch):
    maps = population()
    expected = agreement.reliability(maps, "architecture", n_null=20, rng=3)
    chunked = maps.chunk(checkpoint=1, neuron=2)
    xr.testing.assert_identical(agreement.reliability(chunked, "architecture", n_null=20, rng=3), expected)
    turned = agreement.reliability(maps.transpose("lag", ...), "architecture", n_null=20, rng=3)
    xr.testing.assert_identical(turned, expected)
    monkeypatch.setattr("pipeline.numbers.measures.READ_BYTES", 1)
    small = agreement.reliability(maps, "architecture", n_null=20, rng=3)
    xr.testing.assert_identical(small, expected)


def test_maps_without_variation_do_not_count():
    maps = population(seeds=3)
    maps[0, 0] = 0.0
    maps[1, 1] = np.nan
    maps[:3, 2] = np.nan
    found = agreement.reliability(maps, "architecture", n_null=5).sel(architecture="linear")
    np.testing.assert_array_equal(found["n_maps"], [2, 2, 0, 3, 3])
    np.testing.assert_array_equal(found["reliability"].isnull(), [False, False, True, False, False])
    assert found["p_value"].isnull().sum() == 1


def test_noise_ceiling_predicts_the_correlation_with_the_truth():
    maps = population(("gru",), seeds=6, neurons=5, noise=0.2)
    truth = population(("gru",), seeds=1, neurons=5, noise=0.0)[0]
    ceiling = agreement.noise_ceiling(agreement.reliability(maps, n_null=1))
    for neuron in range(5):
        one = np.mean([correlation(m, truth[neuron]) for m in maps[:, neuron]])
        np.testing.assert_allclose(ceiling["of_one"][neuron], one, atol=0.05)
        mean = agreement.mean_map(maps, normalise=True)["mean"][neuron]
        np.testing.assert_allclose(ceiling["of_mean"][neuron], correlation(mean, truth[neuron]), atol=0.05)
    r = xr.DataArray([0.5, -0.1])
    np.testing.assert_allclose(agreement.spearman_brown(r, 2), [2 / 3, np.nan])


def test_similarity_is_the_mean_of_cross_pairs_and_its_correction_is_one_for_equal_architectures():
    maps = population(seeds=6, noise=0.15)
    found = agreement.similarity(maps)
    pairs = [correlation(a, b) for a in maps[:6, 2] for b in maps[6:, 2]]
    value = found["similarity"].sel(architecture="linear", architecture_other="gru", neuron="n2")
    np.testing.assert_allclose(value, np.mean(pairs), atol=1e-6)
    within = [correlation(a, b) for a, b in combinations(maps[:6, 2].values, 2)]
    own = found["similarity"].sel(architecture="linear", architecture_other="linear", neuron="n2")
    np.testing.assert_allclose(own, np.mean(within), atol=1e-6)
    np.testing.assert_allclose(found["corrected"], 1.0, atol=0.12)
    apart = agreement.similarity(population(seeds=6, noise=0.1, difference=0.3))["corrected"]
    assert apart.sel(architecture="linear", architecture_other="gru").max() < 0.8


@pytest.mark.parametrize("normalise", [False, True])
def test_mean_and_spread_over_seeds(normalise):
    maps = population(seeds=3)
    maps[0, 1, 0, 0] = np.nan
    found = agreement.mean_map(maps, "architecture", normalise=normalise)
    values = maps.values.astype(float)
    if normalise:
        values = values / np.linalg.norm(values, axis=(2, 3), keepdims=True)
    gru = found.sel(architecture="gru")
    np.testing.assert_allclose(gru["mean"], values[3:].mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gru["sd"], values[3:].std(axis=0, ddof=1), rtol=1e-3, atol=1e-5)
    linear = found.sel(architecture="linear", neuron="n1")
    assert linear["n"] == 2
    np.testing.assert_allclose(linear["mean"], values[1:3, 1].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_consistent_signs_are_those_all_seeds_share():
    maps = population(seeds=3)
    found = agreement.sign_consistency(maps, "architecture")
    signs = np.sign(maps.values[:3])
    np.testing.assert_array_equal(found.sel(architecture="linear"), np.abs(signs.sum(axis=0)) == 3)
    relaxed = agreement.sign_consistency(maps.chunk(checkpoint=2), quantile=0.3).compute()
    low, high = np.quantile(maps.values, [0.3, 0.7], axis=0)
    np.testing.assert_array_equal(relaxed, low * high > 0)
    zero = agreement.sign_consistency(0 * maps)
    assert not zero.any()


def test_a_linear_map_plus_something_orthogonal_is_explained_by_that_much():
    maps = population(("linear",), seeds=1, neurons=3, noise=0.0).astype(float)
    direction = np.random.default_rng(0).standard_normal(maps.shape)
    norms = {"axis": (2, 3), "keepdims": True}
    direction -= maps.values * (direction * maps.values).sum(**norms) / (maps.values**2).sum(**norms)
    direction /= np.linalg.norm(direction, axis=(2, 3), keepdims=True)
    unit = maps / np.linalg.norm(maps.values, axis=(2, 3), keepdims=True)
    other = 7 * (unit * 0.8 + 0.6 * direction)
    both = xr.concat(
        [maps, other.assign_coords(architecture=("checkpoint", ["gru"]), checkpoint=["gru-0"])], "checkpoint"
    )
    found = agreement.linear_contrast(both)
    np.testing.assert_allclose(found["cosine"].sel(checkpoint="gru-0"), 0.8)
    np.testing.assert_allclose(found["unexplained"].sel(checkpoint="gru-0"), 0.36)
    np.testing.assert_allclose(found["residual"].sel(checkpoint="gru-0"), 0.6 * direction[0], atol=1e-12)
    assert found["cosine"].sel(checkpoint="linear-0").isnull().all()  # it is its own and only reference
    given = agreement.linear_contrast(both, maps[0].drop_vars("checkpoint"))
    np.testing.assert_allclose(given["cosine"], [[1] * 3, [0.8] * 3])
    np.testing.assert_allclose(given["correlation"][1, 0], correlation(other[0, 0], maps[0, 0]))
    xr.testing.assert_allclose(agreement.linear_contrast(both.chunk(neuron=1)).compute(), found)


def test_a_reference_map_is_compared_with_the_other_seeds_only():
    maps = population(("linear", "gru"), seeds=2).astype(float)
    found = agreement.linear_contrast(maps)
    np.testing.assert_allclose(found["correlation"][0, 0], correlation(maps[0, 0], maps[1, 0]))


def test_variance_components_are_the_planted_ones():
    rng = np.random.default_rng(0)
    groups, seeds, neurons = 40, 5, 200
    between = 2.0 * rng.standard_normal((groups, 1, neurons))
    values = (between + 1.0 * rng.standard_normal((groups, seeds, neurons))).reshape(-1, neurons)
    data = xr.DataArray(values, dims=("checkpoint", "neuron")).assign_coords(
        architecture=("checkpoint", np.repeat(np.arange(groups), seeds))
    )
    found = agreement.variance_components(data)
    np.testing.assert_allclose(found["between"].mean(), 4.0, rtol=0.05)
    np.testing.assert_allclose(found["within"].mean(), 1.0, rtol=0.05)
    np.testing.assert_allclose(found["share_between"].mean(), 0.8, rtol=0.05)


def test_variance_components_of_unequal_groups_equal_the_textbook():
    data = xr.DataArray([1.0, 2.0, 4.0, 7.0, 8.0, 3.0, np.nan], dims="checkpoint").assign_coords(
        architecture=("checkpoint", ["a", "a", "a", "b", "b", "c", "c"])
    )
    parts = [np.array([1.0, 2, 4]), np.array([7.0, 8]), np.array([3.0])]
    n, grand = 6, np.concatenate(parts).mean()
    ms_b = sum(len(p) * (p.mean() - grand) ** 2 for p in parts) / 2
    ms_w = sum(((p - p.mean()) ** 2).sum() for p in parts) / 3
    n_0 = (n - (9 + 4 + 1) / n) / 2
    found = agreement.variance_components(data)
    np.testing.assert_allclose(found["within"], ms_w)
    np.testing.assert_allclose(found["between"], (ms_b - ms_w) / n_0)
    np.testing.assert_allclose(ms_b / ms_w, stats.f_oneway(*parts).statistic)


def test_variance_components_of_maps_leave_out_the_gain():
    maps = population(seeds=4, noise=0.3, difference=0.5)
    found = agreement.variance_components(maps)
    xr.testing.assert_allclose(agreement.variance_components(5 * maps), found)
    assert (found["share_between"] > 0.3).all()
    alike = agreement.variance_components(population(seeds=4, noise=0.3))
    assert abs(alike["share_between"]).max() < 0.2


@pytest.mark.parametrize("many", [True, False])
def test_population_components_equal_a_singular_value_decomposition(many):
    maps = population(seeds=20 if many else 2, neurons=5)
    found = agreement.population_geometry(maps, 4)
    rows = maps.values.reshape(-1, 11 * 14).astype(float)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centred = rows - rows.mean(axis=0)
    _, s, vectors = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found["variance"], (s**2)[:4] / (len(rows) - 1), rtol=1e-6)
    np.testing.assert_allclose(found["explained"], (s**2)[:4] / (s**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(found["participation_ratio"], (s**2).sum() ** 2 / (s**4).sum(), rtol=1e-6)
    np.testing.assert_allclose(
        np.abs((found["component_map"].values.reshape(4, -1) * vectors[:4]).sum(axis=1)), 1.0, rtol=1e-5
    )
    assert (found["component_map"].sum(["frequency", "lag"]) > 0).all()
    rebuilt = found["score"] @ found["component_map"] + found["mean_map"]
    expected = (centred @ vectors[:4].T @ vectors[:4] + rows.mean(axis=0)).reshape(maps.shape)
    np.testing.assert_allclose(rebuilt.transpose(*maps.dims), expected, atol=1e-6)


def test_the_participation_ratio_counts_planted_dimensions():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((11 * 14, 5)))[0]
    rows = rng.standard_normal((4000, 5)) @ basis.T
    maps = xr.DataArray(rows.reshape(-1, 11, 14), dims=("neuron", "frequency", "lag"))
    found = agreement.population_geometry(maps, normalise=False)
    np.testing.assert_allclose(found["participation_ratio"], 5, rtol=0.02)
    np.testing.assert_allclose(agreement.participation_ratio(xr.DataArray([1.0, 1, 1, 0], dims="component")), 3)


def test_maps_that_hold_nan_have_no_score_and_change_nothing():
    maps = population()
    holed = xr.concat([maps, maps.isel(checkpoint=[0]).assign_coords(checkpoint=["x"]) * np.nan], "checkpoint")
    found = agreement.population_geometry(holed, 3)
    assert found["score"].sel(checkpoint="x").isnull().all()
    np.testing.assert_allclose(found["variance"], agreement.population_geometry(maps, 3)["variance"])
    with pytest.raises(ValueError, match="two or more"):
        agreement.population_geometry(maps * np.nan)


def test_clusters_are_the_planted_shapes_whatever_their_gain_or_tuning():
    rng = np.random.default_rng(0)
    shapes = {"fast": (15.0, 6.0), "slow": (90.0, 25.0)}
    names = ["fast"] * 7 + ["slow"] * 4
    tuned = [
        Gabor(rng.uniform(600, 1800), latency_ms=shapes[n][0], sigma_octaves=0.35, sigma_ms=shapes[n][1]) for n in names
    ]
    values = np.stack([rng.uniform(0.1, 10) * g.at(FREQUENCY, LAG) for g in tuned] + [np.zeros((11, 14))])
    maps = xr.DataArray(values, dims=("neuron", "frequency", "lag"), coords={"frequency": FREQUENCY, "lag": LAG})
    labels = agreement.cluster_by_shape(maps, 2, align_frequency=True)
    np.testing.assert_array_equal(labels, [1] * 7 + [2] * 4 + [0])
    loose = agreement.cluster_by_shape(maps, 6)
    assert loose.max() > 2


def test_shapes_that_resemble_each_other_are_told_apart():
    rng = np.random.default_rng(5)
    shared, own = rng.standard_normal((2, 12, 15))
    shapes = [shared, shared + own]
    assert correlation(*shapes) > 0.6
    maps = [shapes[kind] + 0.1 * rng.standard_normal((12, 15)) for kind in (0, 1, 0, 0, 1, 0)]
    found = agreement.cluster_by_shape(xr.DataArray(maps, dims=("neuron", "frequency", "lag")), 2)
    assert found.values.tolist() == [1, 2, 1, 1, 2, 1]


def test_maps_are_aligned_along_the_frequencies_and_keep_their_lags():
    # two latencies, each at bands far apart: aligned along the lags instead, only the bands would be left to differ
    late = np.array([20.0] * 5 + [90.0] * 4)
    bands = [300.0, 5000.0, 900.0, 2500.0, 400.0, 5000.0, 300.0, 2500.0, 900.0]
    fields = [Gabor(bf, ms, sigma_octaves=0.3, sigma_ms=12.0) for bf, ms in zip(bands, late, strict=True)]
    values = np.stack([field.at(FREQUENCY, LAG) for field in fields])
    maps = xr.DataArray(values, dims=("neuron", "frequency", "lag"), coords={"frequency": FREQUENCY, "lag": LAG})
    expected = np.where(late == 20.0, 1, 2)
    np.testing.assert_array_equal(agreement.cluster_by_shape(maps, 2, align_frequency=True), expected)
    turned = agreement.cluster_by_shape(maps.transpose("lag", "frequency", "neuron"), 2, align_frequency=True)
    np.testing.assert_array_equal(turned, expected)


def test_a_trend_equals_scipys_and_finds_a_planted_gradient():
    rng = np.random.default_rng(0)
    depth = rng.uniform(0, 2000, 60)
    octaves = 10 + depth / 500 + 0.2 * rng.standard_normal((2, 60))
    values = xr.DataArray(
        2**octaves, dims=("checkpoint", "neuron"), coords={"depth_um": ("neuron", depth)}, attrs={"units": "Hz"}
    )
    values[0, 3] = np.nan
    found = agreement.trend(values, log2=True)
    kept = np.arange(60) != 3
    expected = stats.spearmanr(depth[kept], octaves[0, kept])
    np.testing.assert_allclose([found["rho"][0], found["p_value"][0]], [expected.statistic, expected.pvalue])
    np.testing.assert_allclose(found["slope"], 1 / 500, rtol=0.1)
    assert found["slope"].attrs["units"] == "octave"
    assert agreement.trend(0 * values + 1)["rho"].isnull().all()


def test_population_sparseness_of_one_active_neuron_is_one():
    values = xr.DataArray([[1.0, 0, 0, 0], [1, 1, 1, 1], [1, 1, np.nan, np.nan]], dims=("stimulus", "neuron"))
    np.testing.assert_allclose(agreement.population_sparseness(values), [1, 0, 0], atol=1e-12)


def test_what_cannot_be_grouped_is_refused_with_what_there_is():
    maps = population()
    for call, match in (
        (lambda: agreement.reliability(maps, "lab"), "architecture, checkpoint, seed"),
        (lambda: agreement.reliability(maps, along="session"), "lack session"),
        (lambda: agreement.reliability(maps.isel(frequency=0, lag=0)), "hold no map"),
        (lambda: agreement.reliability(maps, null="bootstrap"), "'neurons', 'shift' or 'entries'"),
        (lambda: agreement.reliability(maps, n_null=0), "100 or more"),
        (lambda: agreement.linear_contrast(maps, "ln"), "gru, linear"),
        (lambda: agreement.linear_contrast(maps, maps), "left open"),
        (lambda: agreement.sign_consistency(maps, quantile=0.6), r"\[0, 0.5\)"),
        (lambda: agreement.cluster_by_shape(maps, 0), "1 or more"),
        (lambda: agreement.trend(maps.isel(frequency=0, lag=0), "layer"), "depth_um, neuron, site"),
        (lambda: agreement.mean_map(maps.values), "ndarray"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
