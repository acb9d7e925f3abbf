"""permuted_ols of gpuroi.nilearn: nilearn's arguments and results, and right where nilearn is wrong."""

from __future__ import annotations

import inspect
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, stats

from gpuroi.domains import SurfaceMesh, VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import permuted_ols

SHAPE = (5, 5, 5)


def nifti(values, affine=None):
    import nibabel

    return nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)


@pytest.fixture(scope="module")
def masker():
    from nilearn.maskers import NiftiMasker

    return NiftiMasker(nifti(np.ones(SHAPE, np.uint8)), standardize=None).fit()


@pytest.fixture(scope="module")
def study():
    """Age, two confounds and 125 smooth voxels with an effect of age in one corner."""
    rng = np.random.default_rng(3)
    age, confounds = rng.uniform(20, 60, 30), rng.standard_normal((30, 2))
    volumes = ndimage.gaussian_filter(rng.standard_normal((30, *SHAPE)), (0, 1, 1, 1))
    volumes[:, :3, :3, :3] += 0.03 * (age - 40)[:, None, None, None]
    return age, confounds, volumes.reshape(30, -1)


def t_by_statsmodels(column, data, confounds):
    design = np.column_stack([column, *([] if confounds is None else confounds.T)])
    return np.array([sm.OLS(y, design).fit().tvalues[0] for y in data.T])


def nilearns(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


# ------------------------------------------------------------------ nilearn's outside


def test_signature_is_nilearns():
    from nilearn.mass_univariate import permuted_ols as reference

    ours, theirs = inspect.signature(permuted_ols).parameters, inspect.signature(reference).parameters
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


@pytest.mark.parametrize("extra", [{}, {"threshold": 0.01}, {"tfce": True}, {"tfce": True, "threshold": 0.01}])
@pytest.mark.parametrize("n_perm", [0, 20])
def test_keys_shapes_and_dtypes_are_nilearns(study, masker, extra, n_perm):
    from nilearn.mass_univariate import permuted_ols as reference

    _, confounds, data = study
    tested = np.random.default_rng(0).standard_normal((30, 2))
    arguments = {"confounding_vars": confounds, "n_perm": n_perm, "masker": masker, "random_state": 0, **extra}
    ours = permuted_ols(tested, data, **arguments)
    theirs = nilearns(reference, tested, data, **arguments)
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (values.shape, values.dtype), name
    assert_allclose(ours["t"], theirs["t"], rtol=1e-9)
    if "threshold" in extra and n_perm:
        # nilearn's threshold counts both tested columns as regressors of the model
        assert ours["size"].max() >= theirs["size"].max()


def test_sizes_and_masses_are_nilearns_for_one_regressor(study, masker):
    from nilearn.mass_univariate import permuted_ols as reference

    age, confounds, data = study
    arguments = {"n_perm": 5, "masker": masker, "random_state": 0, "threshold": 0.05}
    ours, theirs = (nilearns(f, age, data, confounds, **arguments) for f in (permuted_ols, reference))
    assert ours["size"].max() > 5
    assert_array_equal(ours["size"], theirs["size"])
    assert_allclose(ours["mass"], theirs["mass"], rtol=1e-9)


def test_legacy_output(study):
    age, confounds, data = study
    with pytest.warns(FutureWarning, match="'output_type'.*is deprecated"):
        logp, t, h0 = permuted_ols(age, data, confounds, n_perm=20, random_state=0, output_type="legacy")
    out = permuted_ols(age, data, confounds, n_perm=20, random_state=0)
    for got, name in ((logp, "logp_max_t"), (t, "t"), (h0, "h0_max_t")):
        assert_array_equal(got, out[name])
    with pytest.warns(FutureWarning, match="removed in version 0.15"):
        logp, t, h0 = permuted_ols(age, data, confounds, n_perm=0, output_type="legacy")
    assert logp.size == h0.size == 0
    assert_allclose(t, out["t"], rtol=1e-12)


@pytest.mark.parametrize("extra", [{"tfce": True}, {"threshold": 0.01}])
def test_legacy_is_overridden(study, masker, extra):
    age, _, data = study
    with pytest.warns(UserWarning, match="Overriding"):
        out = permuted_ols(age, data, n_perm=5, masker=masker, output_type="legacy", **extra)
    assert isinstance(out, dict)


# ------------------------------------------------------------------ the statistic


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model_intercept", [True, False])
@pytest.mark.parametrize("with_confounds", [True, False])
def test_t_is_statsmodels(study, dtype, model_intercept, with_confounds):
    age, confounds, data = study
    z = confounds if with_confounds else None
    got = permuted_ols(age, data.astype(dtype), z, model_intercept=model_intercept, n_perm=0)["t"]
    columns = [*(z.T if with_confounds else []), *([np.ones(30)] if model_intercept else [])]
    want = t_by_statsmodels(age, data.astype(dtype).astype(np.float64), np.array(columns).T if columns else None)
    assert got.dtype == np.float64
    assert_allclose(got[0], want, rtol=2e-4 if dtype is np.float32 else 1e-9, atol=1e-5)


def test_each_column_is_tested_alone(study):
    _, confounds, data = study
    tested = np.random.default_rng(1).standard_normal((30, 3))
    tested[:, 1] = 1  # one of them is the intercept
    together = permuted_ols(tested, data, confounds, n_perm=50, random_state=4)
    for i in range(3):
        alone = permuted_ols(tested[:, i], data, confounds, n_perm=50, random_state=4)
        for name in together:
            assert_array_equal(together[name][i], alone[name][0])


def test_dependent_confounds_count_once(study):
    age, confounds, data = study
    twice = np.hstack([confounds, confounds.sum(axis=1, keepdims=True)])
    assert_allclose(permuted_ols(age, data, twice, n_perm=0)["t"], permuted_ols(age, data, confounds, n_perm=0)["t"])


def test_two_intercepts_are_one(study):
    age, confounds, data = study
    with pytest.warns(UserWarning, match="Multiple columns across"):
        got = permuted_ols(age, data, np.column_stack([confounds, np.ones(30), np.full(30, 2)]), n_perm=0)
    assert_allclose(got["t"], permuted_ols(age, data, confounds, n_perm=0)["t"])
    with pytest.warns(UserWarning, match="Multiple columns across"):
        got = permuted_ols(np.ones(30), data, np.column_stack([confounds, np.ones(30)]), n_perm=0)
    assert_allclose(got["t"][0], t_by_statsmodels(np.ones(30), data, confounds), rtol=1e-9)


# ------------------------------------------------------------------ permutations and p


def max_t(data, column, z=None):
    return np.abs(t_by_statsmodels(column, data, z)).max()


def test_one_sample_is_every_sign_flip():
    data = np.random.default_rng(5).standard_normal((6, 4)) + 0.8
    with pytest.warns(UserWarning, match="Only 64 distinct rearrangements"):
        out = permuted_ols(np.ones(6), data, n_perm=1000)
    every = [max_t(data * np.array(signs)[:, None], np.ones(6)) for signs in itertools.product([1, -1], repeat=6)]
    assert_allclose(np.sort(np.append(out["h0_max_t"][0], np.abs(out["t"]).max())), np.sort(every), rtol=1e-9)
    want = [np.mean(np.array(every) >= abs(t) - 1e-9) for t in out["t"][0]]
    assert_allclose(out["logp_max_t"][0], -np.log10(want), atol=1e-12)


@pytest.mark.parametrize("where", ["added", "given"])
def test_a_group_is_permuted_though_the_confounds_hold_an_intercept(where):
    # nilearn flips signs here
    group = np.repeat([0.0, 1.0], 4)
    data = np.random.default_rng(6).standard_normal((8, 4)) + np.outer(group, [2, 0, 0, 0]) + 10
    confounds = np.ones((8, 1)) if where == "given" else None
    with pytest.warns(UserWarning, match="Only 70 distinct"):
        out = permuted_ols(group, data, confounds, n_perm=500)
    every = []
    for chosen in itertools.combinations(range(8), 4):
        column = np.zeros(8)
        column[list(chosen)] = 1
        every.append(max_t(data, column, np.ones((8, 1))))
    want = [np.mean(np.array(every) >= abs(t) - 1e-9) for t in out["t"][0]]
    assert out["h0_max_t"].shape == (1, 69)
    assert_allclose(out["logp_max_t"][0], -np.log10(want), atol=1e-12)


def test_rows_of_fewer_rearrangements_end_in_nan():
    tested = np.column_stack([np.repeat([0.0, 1.0], 3), np.arange(6.0)])
    data = np.random.default_rng(7).standard_normal((6, 3))
    with pytest.warns(UserWarning, match="Only 20 distinct"):
        out = permuted_ols(tested, data, n_perm=100, random_state=0)
    assert out["h0_max_t"].shape == (2, 100)
    assert_array_equal(np.isnan(out["h0_max_t"]).sum(axis=1), [81, 0])


@pytest.mark.parametrize("two_sided", [True, False])
def test_clusters_and_tfce_against_scipy(study, masker, two_sided):
    age, confounds, data = study
    out = permuted_ols(
        age, data, confounds, n_perm=99, masker=masker, tfce=True, threshold=0.02, two_sided_test=two_sided,
        random_state=1,
    )  # fmt: skip
    volume = out["t"][0].reshape(SHAPE)
    cut = stats.t.isf(0.02 / (2 if two_sided else 1), 30 - 4)
    size, mass, enhanced = np.zeros(SHAPE), np.zeros(SHAPE), tfce_by_steps(volume, 0.002)
    enhanced = enhanced if two_sided else np.maximum(enhanced, 0)
    for sign in (1, -1) if two_sided else (1,):
        labels, n = ndimage.label(sign * volume > cut)
        for i in range(1, n + 1):
            size[labels == i], mass[labels == i] = (labels == i).sum(), (np.abs(volume[labels == i]) - cut).sum()
    assert size.max() > 10
    assert_array_equal(out["size"][0], size.ravel())
    assert_allclose(out["mass"][0], mass.ravel(), rtol=1e-9)
    assert_allclose(out["tfce"][0], enhanced.ravel(), rtol=0.01, atol=0.01)
    for name in ("t", "size", "mass", "tfce"):
        observed = np.abs(out[name][0]) if two_sided or name != "t" else out[name][0]
        null = out[f"h0_max_{name}"][0]
        p = [(1 + (null >= x * (1 - 1e-9)).sum()) / 100 if x else 1.0 for x in observed]
        if name == "t":
            p = [(1 + (null >= x - 1e-9).sum()) / 100 for x in observed]
        assert_allclose(out[f"logp_max_{name}"][0], -np.log10(p), atol=1e-12, err_msg=name)


def test_every_p_has_the_same_floor(masker):
    # nilearn's clusters have 1 / n_perm, its voxels 1 / (1 + n_perm)
    rng = np.random.default_rng(8)
    age = rng.standard_normal(20)
    data = rng.standard_normal((20, 125)) + 5 * age[:, None] * (np.arange(125) < 25)
    out = permuted_ols(age, data, n_perm=99, masker=masker, tfce=True, threshold=0.001, random_state=0)
    for name in ("t", "size", "mass", "tfce"):
        assert_allclose(out[f"logp_max_{name}"].max(), 2, rtol=1e-12)
    assert_array_equal(out["logp_max_size"][out["size"] == 0], 0)


def tfce_by_steps(volume, step):
    """Smith and Nichols' sum, its step counted in."""
    out = np.zeros(volume.shape)
    for sign in (1, -1):
        for h in np.arange(step / 2, np.abs(volume).max(), step):
            labels, _ = ndimage.label(sign * volume >= h)
            out += sign * np.where(labels > 0, np.bincount(labels.ravel())[labels] ** 0.5 * h**2 * step, 0)
    return out


def test_tfce_of_every_sign_flip_is_the_integral():
    # nilearn takes a step of its own for each map, and leaves it out of the sum
    data = np.random.default_rng(10).standard_normal((6, 27)) + 0.3
    with pytest.warns(UserWarning, match="Only 64 distinct"):
        out = permuted_ols(np.ones(6), data, n_perm=100, masker=VoxelGrid(np.ones((3, 3, 3))), tfce=True)
    every = []
    for signs in itertools.product([1, -1], repeat=5):  # the first sign may stay: the two halves mirror each other
        t = stats.ttest_1samp(data * np.array([1, *signs])[:, None], 0).statistic
        every.append(np.abs(tfce_by_steps(t.reshape(3, 3, 3), 0.02)).max())
    ours = np.append(out["h0_max_tfce"][0], np.abs(out["tfce"]).max())
    assert_allclose(np.sort(ours), np.sort(every * 2), rtol=0.02)


@pytest.mark.parametrize("n_jobs", [2, -1, -2])
def test_the_null_does_not_depend_on_n_jobs(study, masker, n_jobs):
    age, confounds, data = study
    arguments = {"n_perm": 100, "masker": masker, "tfce": True, "threshold": 0.01, "random_state": 7}
    one, many = (permuted_ols(age, data, confounds, n_jobs=n, **arguments) for n in (1, n_jobs))
    for name in one:
        assert_array_equal(one[name], many[name])


def test_random_state_is_a_seed_a_generator_or_the_global_one(study):
    age, _, data = study

    def null(random_state):
        return permuted_ols(age, data, n_perm=10, random_state=random_state)["h0_max_t"]

    assert_array_equal(null(3), null(np.int64(3)))
    assert_array_equal(null(np.random.RandomState(3)), null(np.random.RandomState(3)))
    assert not np.array_equal(null(3), null(4))
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(11)  # noqa: NPY002
        first = null(None)
        np.random.seed(11)  # noqa: NPY002
        assert_array_equal(null(None), first)
        assert not np.array_equal(null(None), first)
    finally:
        np.random.set_state(state)  # noqa: NPY002


def test_n_perm_adds_to_the_identity(study):
    age, _, data = study
    short, long = (permuted_ols(age, data, n_perm=n, random_state=0)["h0_max_t"] for n in (20, 70))
    assert short.shape == (1, 20)
    assert_array_equal(long[:, :20], short)


# ------------------------------------------------------------------ domains


def test_masker_image_path_and_domain_are_the_same(study, masker, tmp_path):
    age, _, data = study
    nifti(np.ones(SHAPE, np.uint8)).to_filename(tmp_path / "mask.nii.gz")
    images = [masker, masker.mask_img_, tmp_path / "mask.nii.gz", VoxelGrid(np.ones(SHAPE))]
    outs = [permuted_ols(age, data, n_perm=20, masker=m, threshold=0.05, random_state=0) for m in images]
    for out in outs[1:]:
        assert_array_equal(out["h0_max_size"], outs[0]["h0_max_size"])


def test_a_surface_mesh_is_a_domain():
    rng = np.random.default_rng(9)
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [9, 9, 9]], float)
    mesh = SurfaceMesh(vertices, np.array([[0, 1, 2], [1, 2, 3]]))
    age = rng.standard_normal(20)
    data = rng.standard_normal((20, 5)) + 3 * age[:, None]
    out = permuted_ols(age, data, n_perm=50, masker=mesh, threshold=0.01, random_state=0)
    assert_array_equal(out["size"], [[4, 4, 4, 4, 1]])


def test_a_masker_that_was_not_fitted_is_an_error(study):
    from nilearn.maskers import NiftiMasker

    age, _, data = study
    with pytest.raises(DataError, match="was not fitted"):
        permuted_ols(age, data, masker=NiftiMasker(standardize=None), tfce=True)


def test_a_mask_of_other_voxels_is_an_error(study):
    age, _, data = study
    with pytest.raises(DataError, match="125 elements but the domain has 8"):
        permuted_ols(age, data, masker=nifti(np.ones((2, 2, 2), np.uint8)), tfce=True, n_perm=5)


# ------------------------------------------------------------------ hostile input


@pytest.mark.parametrize(
    ("threshold", "two_sided"), [(3.0, True), (1.0, True), (0.0, True), (-0.01, True), (0.6, False), (np.nan, True)]
)
def test_a_threshold_that_is_no_p_is_refused(study, masker, threshold, two_sided):
    # nilearn makes NaN of it and finds no cluster
    age, _, data = study
    with pytest.raises(UsageError, match="expected a cluster-forming p-value"):
        permuted_ols(age, data, masker=masker, threshold=threshold, two_sided_test=two_sided, n_perm=5)


@pytest.mark.parametrize("which", ["tested_vars", "confounding_vars"])
def test_nan_in_a_variate_names_the_row(study, which):
    age, confounds, data = study
    broken = {"tested_vars": age.copy(), "confounding_vars": confounds.copy()}
    broken[which].flat[6] = np.nan
    with pytest.raises(DataError, match=rf"{which} holds nan in row {6 if which == 'tested_vars' else 3}, column 0"):
        permuted_ols(target_vars=data, n_perm=5, **broken)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_descriptor_with_nan_spoils_itself_alone(study, masker, bad):
    age, _, data = study
    broken = data.copy()
    broken[4, 124] = bad
    whole = data.copy()
    whole[:, 124] = 0
    arguments = {"n_perm": 30, "random_state": 0, "masker": masker, "tfce": True, "threshold": 0.05}
    with pytest.warns(UserWarning, match="1 of 125 descriptors"):
        got = permuted_ols(age, broken, **arguments)
    with pytest.warns(UserWarning, match="have zeros across all samples"):
        want = permuted_ols(age, whole, **arguments)
    for name in got:
        assert_array_equal(got[name], want[name])
    for name in ("t", "logp_max_t", "tfce", "logp_max_tfce", "logp_max_size", "logp_max_mass"):
        assert np.isnan(got[name][0, 124])
        assert np.isfinite(got[name][0, :124]).all()
    assert np.isfinite(got["h0_max_t"]).all()


def test_constant_descriptors_are_counted(study):
    age, _, data = study
    constant = data.copy()
    constant[:, :3] = 5
    with pytest.warns(UserWarning, match="3 of 125 descriptors"):
        out = permuted_ols(age, constant, n_perm=5)
    assert np.isnan(out["t"][0, :3]).all()


def test_a_variate_that_the_confounds_explain_is_named(study):
    age, _, data = study
    with pytest.raises(DataError, match="tested_vars column 0, confounding_vars column 0 depend on each other"):
        permuted_ols(age, data, 2 * age[:, None], n_perm=5)


@pytest.mark.parametrize("two_sided", [True, False])
def test_exact_fits_have_the_smallest_p(two_sided):
    x = np.arange(12.0)
    data = np.column_stack([x, -x, np.random.default_rng(0).random(12)])
    out = permuted_ols(2 * x, data, model_intercept=False, n_perm=99, random_state=0, two_sided_test=two_sided)
    assert_allclose(out["logp_max_t"][0, :2], [2, 2 if two_sided else 0], atol=1e-12)
    assert out["t"][0, 0] > 1e6
    assert out["t"][0, 1] < -1e6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_jobs": 0}, ValueError, "'n_jobs == 0' is not a valid choice"),
        ({"n_perm": 0.5}, TypeError, "'n_perm' must be of type"),
        ({"n_perm": True}, TypeError, "'n_perm' must be of type"),
        ({"tfce": 1}, TypeError, "'tfce' must be of type"),
        ({"threshold": "0.01"}, TypeError, "'threshold' must be of type"),
        ({"random_state": "one"}, TypeError, "'random_state' must be of type"),
        ({"random_state": -1}, ValueError, "random_state is -1"),
        ({"tfce": True}, ValueError, "A masker must be provided if tfce is True"),
        ({"threshold": 0.01}, ValueError, "masker must be defined as well"),
        ({"target_vars": np.zeros(30)}, ValueError, "'target_vars' should be a 2D array"),
        ({"tested_vars": ["a"] * 30}, TypeError, "'tested_vars' must contain numerical or boolean values"),
        ({"tested_vars": np.arange(29)}, ValueError, r"tested_vars has shape \(29, 1\), but target_vars has 30 rows"),
        ({"confounding_vars": np.zeros((4, 2))}, ValueError, "confounding_vars has shape"),
        ({"output_type": "table"}, ValueError, "output_type"),
    ],
)
def test_bad_arguments(study, arguments, error, message):
    age, _, data = study
    with pytest.raises(error, match=message):
        permuted_ols(**{"tested_vars": age, "target_vars": data, "n_perm": 5, **arguments})


def test_bool_and_list_variates(study):
    _, confounds, data = study
    group = np.arange(30) % 2 == 0
    want = permuted_ols(group.astype(float), data, confounds, n_perm=0)["t"]
    assert_array_equal(permuted_ols(group, data, confounds, n_perm=0)["t"], want)
    assert_array_equal(permuted_ols(group.tolist(), data, confounds.tolist(), n_perm=0)["t"], want)


@pytest.mark.parametrize(
    "given",
    [np.asfortranarray, lambda x: x.astype(">f8"), lambda x: x[::-1, ::-1][::-1, ::-1], lambda x: x.astype(np.int16),
     np.ndarray.tolist, pd.DataFrame],
)  # fmt: skip
def test_target_vars_of_every_layout(study, given):
    age, _, data = study
    whole = np.rint(100 * data)
    want = permuted_ols(age, whole, n_perm=20, random_state=0)
    got = permuted_ols(pd.Series(age), given(whole), n_perm=20, random_state=0)
    assert_allclose(got["t"], want["t"], rtol=1e-4)
    assert_array_equal(got["logp_max_t"], want["logp_max_t"])


@pytest.mark.kernels
def test_cupy_data_stay_on_their_device(study, masker, standin_cupy):
    age, confounds, data = study
    arguments = {"n_perm": 30, "masker": masker, "tfce": True, "threshold": 0.05, "random_state": 0}
    want = permuted_ols(age, data, confounds, **arguments)
    got = permuted_ols(age, standin_cupy.asarray(data), confounds, **arguments)
    for name, values in want.items():
        assert isinstance(got[name], np.ndarray)
        assert_allclose(got[name], values, rtol=1e-6, atol=1e-9, err_msg=name)


def test_progress_is_printed_when_asked_for(study, capsys):
    age, _, data = study
    permuted_ols(age, data, n_perm=200, random_state=0)
    assert capsys.readouterr().out == ""
    permuted_ols(age, data, n_perm=200, random_state=0, verbose=1)
    assert "201/201 permutations (100%)" in capsys.readouterr().out
