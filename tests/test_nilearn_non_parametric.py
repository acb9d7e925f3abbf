"""non_parametric_inference of gpuroi.nilearn: images in, images out, and the contrast of the linear model."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from nibabel import Nifti1Image, load, squeeze_image
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.nilearn import non_parametric_inference, permuted_ols
from gpuroi.nilearn.background_mask import background_mask

SHAPE = (6, 7, 5)
AFFINE = np.diag([-2.0, 2.5, 3.0, 1.0])
INSIDE = np.zeros(SHAPE, bool)
INSIDE[1:5, 1:6, 1:4] = True


@pytest.fixture(scope="module")
def volumes():
    """Twelve volumes, 0 outside, with an effect in some voxels of the first four."""
    values = np.random.default_rng(0).standard_normal((12, *SHAPE))
    values[:4, 1:3, 1:3, 1:3] += 2
    return values * INSIDE


@pytest.fixture(scope="module")
def images(volumes):
    return [Nifti1Image(v, AFFINE) for v in volumes]


@pytest.fixture
def mask():
    return Nifti1Image(INSIDE.astype(np.uint8), AFFINE)


@pytest.fixture
def groups():
    return pd.DataFrame(np.kron(np.eye(3), np.ones((4, 1))), columns=["a", "b", "c"])


def t_of(volumes, design, contrast):
    fits = [sm.OLS(y, np.asarray(design)).fit().t_test(np.atleast_2d(contrast)) for y in volumes[:, INSIDE].T]
    return np.array([float(np.squeeze(fit.tvalue)) for fit in fits])


def t_map(*args, **kwargs):
    return non_parametric_inference(*args, n_perm=5, random_state=0, threshold=0.01, **kwargs)["t"].get_fdata()


def test_signature_is_nilearns():
    from nilearn.glm.second_level import non_parametric_inference as reference

    ours, theirs = (inspect.signature(f).parameters.values() for f in (non_parametric_inference, reference))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


# ------------------------------------------------------------------ the contrast


@pytest.mark.parametrize(
    "contrast", ["a - b", "a - (b + c) / 2", "a", [1, -0.5, -0.5], [0, 2, -2], np.array([1, 1, 1])]
)
def test_t_is_that_of_the_linear_model(volumes, images, mask, groups, contrast):
    weights = {"a - b": [1, -1, 0], "a - (b + c) / 2": [1, -0.5, -0.5], "a": [1, 0, 0]}.get(str(contrast), contrast)
    got = t_map(images, design_matrix=groups, second_level_contrast=contrast, mask=mask)
    assert_allclose(got[INSIDE], t_of(volumes, groups, weights), rtol=1e-9)
    assert_array_equal(got[~INSIDE], 0)


def test_nilearn_tests_another_contrast(volumes, images, mask, groups):
    # kept as a witness: where this fails nilearn has changed, and the Notes have to
    from nilearn.glm.second_level import non_parametric_inference as reference

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = reference(
            images, design_matrix=groups, second_level_contrast=[1, -0.5, -0.5], mask=mask, n_perm=5, threshold=0.01
        )["t"].get_fdata()
    shift = np.abs(theirs[INSIDE] - t_of(volumes, groups, [1, -0.5, -0.5]))
    assert shift.max() > 0.01


def test_intercept_is_added_unless_the_design_spans_it(volumes, images, mask):
    age = pd.DataFrame({"age": np.random.default_rng(1).uniform(20, 60, 12)})
    both = age.assign(intercept=1.0)
    want = t_of(volumes, both, [1, 0])
    for design, contrast in ((age, None), (both, "age"), (both, [1, 0])):
        got = t_map(images, design_matrix=design, second_level_contrast=contrast, mask=mask)
        assert_allclose(got[INSIDE], want, rtol=1e-9)
    got = t_map(images, design_matrix=age, mask=mask, model_intercept=False)
    assert_allclose(got[INSIDE], t_of(volumes, age, [1]), rtol=1e-9)


def test_the_mean_is_tested_by_sign_flips(volumes, images, mask):
    design = pd.DataFrame({"intercept": np.ones(12)})
    out = non_parametric_inference(images, design_matrix=design, mask=mask, n_perm=200, random_state=3)
    want = permuted_ols(np.ones(12), volumes[:, INSIDE], n_perm=200, two_sided_test=False, random_state=3)
    assert_array_equal(out.get_fdata()[INSIDE], want["logp_max_t"][0])
    centred = design.assign(age=np.arange(12.0) ** 2)
    t = t_map(images, design_matrix=centred, second_level_contrast="intercept", mask=mask)
    assert_allclose(t[INSIDE], t_of(volumes, centred, [1, 0]), rtol=1e-9)


def test_a_difference_of_groups_is_tested_by_permutations(volumes, images, mask):
    # nilearn flips signs where the design holds an intercept
    group = np.repeat([0.0, 1.0], 6)
    design = pd.DataFrame({"group": group, "intercept": 1.0})
    with pytest.warns(UserWarning, match="Only 924 distinct"):  # 12 choose 6: all are run
        out = non_parametric_inference(
            images, design_matrix=design, second_level_contrast="group", mask=mask, n_perm=2000
        )
    t = stats.ttest_ind(volumes[6:, INSIDE], volumes[:6, INSIDE]).statistic
    with pytest.warns(UserWarning, match="Only 924 distinct"):
        every = permuted_ols(group, volumes[:, INSIDE], n_perm=2000, two_sided_test=False)
    assert_allclose(every["t"][0], t, rtol=1e-9)
    assert_array_equal(out.get_fdata()[INSIDE], every["logp_max_t"][0])


# ------------------------------------------------------------------ what comes in


@pytest.fixture(scope="module")
def design():
    return pd.DataFrame({"x": np.random.default_rng(2).standard_normal(12)})


@pytest.fixture(scope="module")
def wanted(volumes, design):
    return t_of(volumes, design.assign(intercept=1.0), [1, 0])


@pytest.mark.parametrize("kind", ["list", "4d", "paths", "4d path", "pattern", "series", "single frames"])
def test_images_of_every_kind(volumes, images, design, mask, wanted, tmp_path, kind):
    series = Nifti1Image(np.moveaxis(volumes, 0, -1), AFFINE)
    paths = [tmp_path / f"sub-{i}.nii.gz" for i in range(12)]
    for image, path in zip(images, paths, strict=True):
        image.to_filename(path)
    series.to_filename(tmp_path / "all.nii")
    given = {
        "list": images,
        "4d": series,
        "paths": paths,
        "4d path": str(tmp_path / "all.nii"),
        "pattern": str(tmp_path / "sub-*.nii.gz"),
        "series": pd.Series([str(p) for p in paths]),
        "single frames": [Nifti1Image(v[..., None], AFFINE) for v in volumes],
    }[kind]
    assert_allclose(t_map(given, design_matrix=design, mask=mask)[INSIDE], wanted, rtol=1e-9)


def test_a_table_is_sorted_by_subject_and_filtered_by_contrast(images, design, mask, wanted, tmp_path):
    rows = []
    for i in np.random.default_rng(3).permutation(12):
        for name in ("faces", "houses"):
            path = tmp_path / f"{i}_{name}.nii"
            (images[i] if name == "faces" else images[0]).to_filename(path)
            rows.append({"subject_label": f"sub-{i:02d}", "map_name": name, "effects_map_path": str(path)})
    table = pd.DataFrame(rows)
    got = t_map(table, design_matrix=design, first_level_contrast="faces", mask=mask)
    assert_allclose(got[INSIDE], wanted, rtol=1e-9)
    with pytest.raises(DataError, match="set first_level_contrast to one of: faces, houses"):
        t_map(table, design_matrix=design, mask=mask)


def test_confounds_make_the_design_of_a_table(images, design, mask, wanted, tmp_path):
    labels = [f"sub-{i:02d}" for i in range(12)]
    paths = [str(tmp_path / f"{label}.nii") for label in labels]
    for image, path in zip(images, paths, strict=True):
        image.to_filename(path)
    table = pd.DataFrame({"subject_label": labels, "map_name": "con", "effects_map_path": paths})
    confounds = design.assign(subject_label=labels).iloc[::-1]
    got = t_map(table, confounds, second_level_contrast="x", first_level_contrast="con", mask=mask)
    assert_allclose(got[INSIDE], wanted, rtol=1e-9)
    with pytest.raises(DataError, match=r"one row for each subject; these have another number: sub-11 \(0\)"):
        t_map(table, confounds.iloc[1:], second_level_contrast="x", first_level_contrast="con", mask=mask)
    with pytest.warns(UserWarning, match="confounds are not used"):
        t_map(table, confounds, design, first_level_contrast="con", mask=mask)


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_design_from_a_file(images, design, mask, wanted, tmp_path, suffix):
    path = tmp_path / f"design{suffix}"
    design.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    assert_allclose(t_map(images, design_matrix=path, mask=mask)[INSIDE], wanted, rtol=1e-9)


def test_float32_images_are_computed_as_such(volumes, design, mask, wanted):
    single = [Nifti1Image(v.astype(np.float32), AFFINE) for v in volumes]
    got = t_map(single, design_matrix=design, mask=mask)[INSIDE]
    assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_real_maps_of_a_meta_analysis(open_data):
    from nilearn.glm.second_level import non_parametric_inference as reference

    folder = open_data / "nimare_pain21"
    paths = [p for p in sorted(folder.glob("pain_*_z.nii.gz")) if load(p).shape[:3] == (10, 10, 10)]
    design = pd.DataFrame({"intercept": np.ones(len(paths))})
    arguments = {"design_matrix": design, "mask": folder / "mask.nii.gz", "random_state": 0}
    arguments |= {"n_perm": 200, "tfce": True, "threshold": 0.001, "two_sided_test": True}
    ours = non_parametric_inference(paths, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = reference([squeeze_image(load(p)) for p in paths], **arguments)  # it takes no mixed list
    assert len(paths) > 15
    for name in ("t", "size", "mass"):
        assert_allclose(ours[name].get_fdata(), theirs[name].get_fdata(), rtol=1e-4, atol=1e-4)
    # other flips, so only within their binomial spread: p of 0.05 from 200 has a standard error of 0.015
    p, q = (10 ** -image["logp_max_t"].get_fdata() for image in (ours, theirs))
    assert np.abs(p - q).max() < 0.2


# ------------------------------------------------------------------ mask and smoothing


@pytest.mark.parametrize("background", [0.0, np.nan, -3.0])
def test_background_mask_is_nilearns(background):
    from nilearn.image import mean_img
    from nilearn.masking import compute_background_mask

    values = np.random.default_rng(4).standard_normal((3, 8, 9, 10))
    values[:, :3] = values[:, :, -3:] = values[..., :2] = background
    want = compute_background_mask(mean_img([Nifti1Image(v, AFFINE) for v in values], copy_header=True))
    assert_array_equal(background_mask(values.mean(axis=0)), want.get_fdata() != 0)


def test_without_a_mask_the_background_is_left_out(images, design, mask):
    given = t_map(images, design_matrix=design, mask=mask)
    assert_array_equal(t_map(images, design_matrix=design), given)


def test_images_without_a_background_need_a_mask(design):
    flat = [Nifti1Image(np.full(SHAPE, float(i)), AFFINE) for i in range(12)]
    with pytest.raises(DataError, match="no voxel of the mean image differs"):
        t_map(flat, design_matrix=design)


def test_smoothing_is_nilearns(volumes, images, design, mask):
    from nilearn.image import smooth_img

    broken = [Nifti1Image(np.where(INSIDE, v, np.nan), AFFINE) for v in volumes]
    smoothed = [smooth_img(image, 4.0).get_fdata() for image in images]
    want = t_of(np.array(smoothed), design.assign(intercept=1.0), [1, 0])
    for given in (images, broken):  # NaN around, as in SPM's maps, counts as 0
        got = t_map(given, design_matrix=design, mask=mask, smoothing_fwhm=4.0)
        assert_allclose(got[INSIDE], want, rtol=1e-6)


def test_a_masker_does_the_reading(volumes, images, design, mask, wanted):
    from nilearn.maskers import NiftiMasker

    masker = NiftiMasker(mask, standardize=None)
    assert_allclose(t_map(images, design_matrix=design, mask=masker)[INSIDE], wanted, rtol=1e-6)
    smooth = t_map(images, design_matrix=design, mask=mask, smoothing_fwhm=4.0)
    assert_allclose(t_map(images, design_matrix=design, mask=masker, smoothing_fwhm=4.0), smooth, rtol=1e-5)
    with pytest.warns(UserWarning, match="'smoothing_fwhm' of the masker overridden"):
        got = t_map(
            images, design_matrix=design, mask=NiftiMasker(mask, smoothing_fwhm=9.0, standardize=None),
            smoothing_fwhm=4.0,
        )  # fmt: skip
    assert_allclose(got, smooth, rtol=1e-5)
    assert masker.smoothing_fwhm is None
    bare = t_map(images, design_matrix=design, mask=NiftiMasker(standardize=None))
    assert_allclose(bare[INSIDE], wanted, rtol=1e-6)


# ------------------------------------------------------------------ what comes out


def test_images_and_keys_are_nilearns(images, design, mask):
    from nilearn.glm.second_level import non_parametric_inference as reference

    arguments = {"design_matrix": design, "mask": mask, "n_perm": 9, "random_state": 0, "tfce": True, "threshold": 0.3}
    ours = non_parametric_inference(images, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = reference(images, **arguments)
    assert list(ours) == list(theirs)
    for name, image in theirs.items():
        assert isinstance(ours[name], Nifti1Image)
        assert ours[name].shape == image.shape
        assert ours[name].get_data_dtype() == (np.int32 if name == "size" else image.get_data_dtype())
        assert_array_equal(ours[name].affine, image.affine)
    for name in ("t", "size", "mass"):
        assert_allclose(ours[name].get_fdata(), theirs[name].get_fdata(), rtol=1e-6, atol=1e-9)
    assert isinstance(non_parametric_inference(images, design_matrix=design, mask=mask, n_perm=9), Nifti1Image)


def test_nan_in_one_image_spoils_its_voxel_alone(volumes, design, mask, wanted):
    broken = volumes.copy()
    broken[3, 2, 2, 2] = np.nan
    images = [Nifti1Image(v, AFFINE) for v in broken]
    with pytest.warns(UserWarning, match="1 of 60 descriptors"):
        out = non_parametric_inference(images, design_matrix=design, mask=mask, n_perm=20, threshold=0.3)
    for name in ("t", "logp_max_t", "logp_max_size"):
        values = out[name].get_fdata()
        assert np.isnan(values[2, 2, 2])
        assert np.isnan(values).sum() == 1
    good = INSIDE.copy()
    good[2, 2, 2] = False
    assert_allclose(out["t"].get_fdata()[good], wanted[good[INSIDE]], rtol=1e-9)


# ------------------------------------------------------------------ hostile input


def test_bad_input(images, design, mask, groups):
    def refused(error, message, *args, **kwargs):
        with pytest.raises(error, match=message):
            non_parametric_inference(*args, **{"design_matrix": design, "n_perm": 5, "mask": mask, **kwargs})

    refused(ValueError, "11 rows in design matrix do not match with 12 maps", images, design_matrix=design.iloc[:11])
    refused(ValueError, "No second-level contrast is specified", images, design_matrix=groups)
    refused(ValueError, "Second_level_contrast must be a valid", images, second_level_contrast=[0])
    refused(ValueError, "weight for each of x", images, second_level_contrast=[1, 0])
    refused(ValueError, "expression .nope. is not valid", images, second_level_contrast="nope")
    refused(ValueError, "require a design matrix", images, design_matrix=None)
    refused(TypeError, "'design_matrix' must be a str", images, design_matrix=[1])
    refused(DataError, "no such file", images, design_matrix="nowhere.tsv")
    refused(DataError, "can only be TSV or CSV", images, design_matrix="nowhere.xlsx")
    refused(TypeError, "at least two", images[:1])
    refused(TypeError, "must be either", None)
    refused(TypeError, "must be of the same type", [*images[:11], "a.nii"])
    refused(ValueError, "File not found: 'nowhere.nii'", "nowhere.nii")
    refused(TypeError, "confounds must be a pandas DataFrame", images, confounds=[1])
    refused(ValueError, "'subject_label'", images, confounds=design)
    refused(UsageError, "n_perm is 0", images, n_perm=0)
    refused(UsageError, "expected a cluster-forming p-value", images, threshold=3.0)
    refused(ValueError, "'n_jobs == 0'", images, n_jobs=0)
    refused(TypeError, "'smoothing_fwhm' must be of type", images, smoothing_fwhm="fast")


def test_nan_and_text_in_the_design_are_named(images, design, mask):
    holed = design.copy()
    holed.loc[5, "x"] = np.nan
    with pytest.raises(DataError, match="design_matrix holds nan in row 5 of column x"):
        non_parametric_inference(images, design_matrix=holed, mask=mask)
    texts = design.assign(sex=["f", "m"] * 6)
    with pytest.raises(DataError, match="design_matrix: sex holds something else than numbers"):
        non_parametric_inference(images, design_matrix=texts, second_level_contrast="x", mask=mask)


def test_a_contrast_that_cannot_be_estimated_names_the_columns(images, groups, mask):
    design = groups.assign(mean=1.0)
    with pytest.raises(DataError, match=r"second_level_contrast .* is not estimable"):
        non_parametric_inference(images, design_matrix=design, second_level_contrast="a", mask=mask)


def test_other_grids_are_an_error(images, design, mask):
    moved = Nifti1Image(INSIDE.astype(np.uint8), np.diag([2.0, 2.5, 3.0, 1.0]))
    with pytest.raises(GridError):
        non_parametric_inference(images, design_matrix=design, mask=moved)
    with pytest.raises(GridError):
        non_parametric_inference(
            [*images[:11], Nifti1Image(images[11].get_fdata(), moved.affine)], design_matrix=design, mask=mask
        )


def test_models_and_surfaces_are_taken(volumes, images, mask, design, wanted):
    from nilearn.glm.first_level import FirstLevelModel
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    class Fitted(FirstLevelModel):
        """A model whose contrast is a known map."""

        def __sklearn_is_fitted__(self):
            return True

        def compute_contrast(self, contrast_def, output_type="z_score", **_):
            assert (contrast_def, output_type) == ("faces", "effect_size")
            return self.map

    models = []
    for image in images:
        models.append(Fitted())
        models[-1].map = image
    got = t_map(models, design_matrix=design, first_level_contrast="faces", mask=mask)
    assert_allclose(got[INSIDE], wanted, rtol=1e-9)
    with pytest.raises(ValueError, match="first_level_contrast is mandatory"):
        t_map(models, design_matrix=design, mask=mask)

    values = volumes[:, INSIDE].astype(np.float32)
    coordinates, faces = np.random.default_rng(0).random((30, 3)), np.arange(30).reshape(10, 3)
    mesh = PolyMesh(left=InMemoryMesh(coordinates, faces), right=InMemoryMesh(coordinates, faces))
    surfaces = [SurfaceImage(mesh, {"left": v[:30], "right": v[30:]}) for v in values]
    out = non_parametric_inference(surfaces, design_matrix=design, n_perm=50, random_state=0)
    want = permuted_ols(design["x"], values, n_perm=50, two_sided_test=False, random_state=0)["logp_max_t"][0]
    assert isinstance(out, SurfaceImage)
    assert_allclose(np.concatenate([out.data.parts["left"], out.data.parts["right"]]).ravel(), want, rtol=1e-6)
