"""Parcellations beside nilearn's: the same labels where it draws nothing, better ones where it does."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import nibabel
import nilearn.regions
import numpy as np
import pytest
from nilearn.maskers import MultiNiftiMasker
from nilearn.maskers import NiftiMasker as TheirMasker
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from scipy import signal
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering
from sklearn.exceptions import NotFittedError

from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import NiftiMasker, Parcellations
from gpuroi.parcels import explained_variance
from gpuroi.parcels.numbering import numbered_by_first, pieces

SHAPE = (9, 8, 7)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
EXACT = ("ward", "complete", "average")
METHODS = (*EXACT, "kmeans", "rena", "hierarchical_kmeans")


def run(n: int = 25, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    noise = np.stack([gaussian_filter(rng.standard_normal(SHAPE), 0.8) for _ in range(n)], axis=-1)
    return nibabel.Nifti1Image((100 + 10 * noise).astype(np.float32), AFFINE)


def whole() -> Any:
    return nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)


def nilearn_parcellations(**settings: Any) -> Any:
    return nilearn.regions.Parcellations(**settings)


def quiet(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call nilearn, whose warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)


def labels(parcellation: Any) -> np.ndarray:
    return np.asarray(parcellation.labels_img_.dataobj)


def test_signature_and_defaults() -> None:
    theirs = inspect.signature(nilearn.regions.Parcellations)
    ours = inspect.signature(Parcellations)
    assert {n: p.default for n, p in ours.parameters.items()} == {n: p.default for n, p in theirs.parameters.items()}
    assert Parcellations.VALID_METHODS == nilearn.regions.Parcellations.VALID_METHODS
    for name in ("fit", "transform", "fit_transform", "inverse_transform", "score"):
        wanted = inspect.signature(getattr(nilearn.regions.Parcellations, name))
        assert list(inspect.signature(getattr(Parcellations, name)).parameters) == list(wanted.parameters)


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("settings", [{}, {"smoothing_fwhm": 8.0}, {"smoothing_fwhm": None}])
def test_labels_equal_those_of_nilearn(device: str, method: str, settings: dict[str, Any]) -> None:
    how = {"method": method, "n_parcels": 15, "mask": whole(), **settings}
    imgs = run()
    ours, theirs = Parcellations(**how).fit(imgs), quiet(nilearn_parcellations(**how).fit, imgs)
    np.testing.assert_array_equal(labels(ours), labels(theirs))
    assert ours.labels_img_.get_data_dtype() == theirs.labels_img_.get_data_dtype()
    assert (ours.connectivity_ != theirs.connectivity_).nnz == 0
    np.testing.assert_allclose(ours.variance_, theirs.variance_, rtol=1e-3, atol=1e-3)
    assert ours.n_elements_ == theirs.n_elements_ == 15
    signals, wanted = ours.transform(imgs), quiet(theirs.transform, imgs)
    np.testing.assert_allclose(signals, wanted, rtol=1e-4, atol=1e-4)
    back, want = ours.inverse_transform(signals), theirs.inverse_transform(wanted)
    np.testing.assert_allclose(back.get_fdata(), want.get_fdata(), rtol=1e-4, atol=1e-4)
    assert back.get_data_dtype() == want.get_data_dtype()


@pytest.mark.parametrize("method", EXACT)
def test_components_of_rounding_errors_do_not_count(method: str) -> None:
    """Standardized series have no mean over time: nilearn keeps that direction, which holds rounding errors alone."""
    imgs, grid = run(), VoxelGrid(np.ones(SHAPE))
    how = {"method": method, "n_parcels": 15, "mask": whole(), "smoothing_fwhm": None, "standardize": "zscore_sample"}
    ours = Parcellations(**how, detrend=True).fit(imgs)
    series = signal.detrend(imgs.get_fdata(), axis=-1).reshape(grid.n_elements, -1)
    series /= series.std(axis=1, ddof=1, keepdims=True)
    left = np.linalg.svd(series, full_matrices=False)[0][:, :23]  # 25 volumes less mean and slope
    links = csr_matrix((np.ones(len(grid.indices)), grid.indices, grid.indptr))
    want = AgglomerativeClustering(15, connectivity=links, linkage=method).fit(left).labels_
    assert len(ours.components_) == 23
    np.testing.assert_array_equal(numbered_by_first(labels(ours).ravel()), numbered_by_first(want))


def test_several_runs_equal_nilearn() -> None:
    imgs = [run(12, 1), run(14, 2)]
    how = {"method": "ward", "n_parcels": 12, "mask": whole(), "smoothing_fwhm": None}
    ours, theirs = Parcellations(**how), nilearn_parcellations(**how)
    ours.fit(imgs)
    quiet(theirs.fit, imgs)
    rng = np.random.default_rng(0)
    confounds = [rng.standard_normal((12, 2)), rng.standard_normal((14, 2))]
    got = ours.transform(imgs, confounds=confounds)
    want = quiet(theirs.transform, imgs, confounds=confounds)
    np.testing.assert_array_equal(labels(ours), labels(theirs))
    for mine, their in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, their, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.score(imgs), quiet(theirs.score, imgs), atol=1e-3)
    each = ours.score(imgs, per_component=True)
    assert each.shape == ours.variance_.shape
    assert np.all((each >= 0) & (each <= 1))


def test_a_mask_is_made_as_by_nilearn() -> None:
    rng = np.random.default_rng(0)
    head = np.pad(np.full((10, 11, 9), 1000.0), 4)
    imgs = [
        nibabel.Nifti1Image((head[..., None] + 50 * rng.random((*head.shape, 8))).astype(np.float32), AFFINE)
        for _ in range(2)
    ]
    how = {"method": "ward", "n_parcels": 8}
    for given in (imgs[0], imgs):
        ours, theirs = Parcellations(**how).fit(given), quiet(nilearn_parcellations(**how).fit, given)
        np.testing.assert_array_equal(np.asarray(ours.mask_img_.dataobj) > 0, np.asarray(theirs.mask_img_.dataobj) > 0)
        np.testing.assert_array_equal(labels(ours), labels(theirs))


@pytest.mark.parametrize("method", ["kmeans", "rena", "hierarchical_kmeans"])
def test_the_other_methods_are_as_good(method: str) -> None:
    how = {"method": method, "n_parcels": 20, "mask": whole(), "smoothing_fwhm": None}
    imgs = run(30)
    ours, theirs = Parcellations(**how).fit(imgs), quiet(nilearn_parcellations(**how).fit, imgs)
    assert np.array_equal(np.unique(labels(ours)), np.arange(1, 21))
    learnt = ours.components_
    kept = explained_variance(learnt, labels(ours).ravel())
    assert kept >= explained_variance(learnt, labels(theirs).ravel()) - 0.005
    if method == "rena":
        graph = VoxelGrid(np.ones(SHAPE)).graph
        np.testing.assert_array_equal(pieces(labels(ours).ravel(), graph), numbered_by_first(labels(ours).ravel()))


def test_devices_give_the_same_labels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imgs = run()
    for method in ("kmeans", "hierarchical_kmeans"):
        how: dict[str, Any] = {"method": method, "n_parcels": 10, "mask": whole(), "smoothing_fwhm": None}
        monkeypatch.setenv("GPUROI_DEVICE", device)
        got = labels(Parcellations(**how).fit(imgs))
        monkeypatch.setenv("GPUROI_DEVICE", "cpu")
        np.testing.assert_array_equal(got, labels(Parcellations(**how).fit(imgs)))


def test_as_many_parcels_as_asked_for_of_few_volumes() -> None:
    """nilearn makes no more hierarchical ones than there are volumes."""
    parcels = Parcellations("hierarchical_kmeans", n_parcels=30, mask=whole(), smoothing_fwhm=None).fit(run(10))
    assert parcels.n_elements_ == 30


@pytest.mark.parametrize("kind", [NiftiMasker, TheirMasker, MultiNiftiMasker])
def test_the_parameters_of_a_masker_count(kind: Any) -> None:
    masker = kind(mask_img=whole(), smoothing_fwhm=6.0, standardize="zscore_sample")
    with pytest.warns(UserWarning, match="Overriding provided-default estimator parameters") as caught:
        got = Parcellations("ward", n_parcels=9, mask=masker).fit(run())
    assert "Parameter smoothing_fwhm :\n    Masker parameter 6.0 - overriding estimator parameter 4.0" in str(
        caught[0].message
    )
    how = {"smoothing_fwhm": 6.0, "standardize": "zscore_sample"}
    want = Parcellations("ward", n_parcels=9, mask=whole(), **how).fit(run())
    np.testing.assert_array_equal(labels(got), labels(want))


def test_paths_and_patterns(tmp_path: Path) -> None:
    for k in range(2):
        nibabel.save(run(10, k), tmp_path / f"run{k}.nii.gz")
    nibabel.save(whole(), tmp_path / "mask.nii.gz")
    how = {"method": "ward", "n_parcels": 9, "mask": tmp_path / "mask.nii.gz"}
    want = labels(Parcellations(**how).fit([run(10, 0), run(10, 1)]))
    np.testing.assert_array_equal(labels(Parcellations(**how).fit(str(tmp_path / "run*.nii.gz"))), want)
    paths = [tmp_path / "run0.nii.gz", str(tmp_path / "run1.nii.gz")]
    np.testing.assert_array_equal(labels(Parcellations(**how).fit(paths)), want)


def surface(n: int = 12) -> Any:
    rng = np.random.default_rng(0)
    side = 7
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    points = np.column_stack([x.ravel(), y.ravel(), np.zeros(side**2)]).astype(float)
    corner = np.array([i * side + j for i in range(side - 1) for j in range(side - 1)])
    faces = np.concatenate(
        [
            np.column_stack([corner, corner + 1, corner + side]),
            np.column_stack([corner + 1, corner + side, corner + side + 1]),
        ]
    )
    mesh = PolyMesh(left=InMemoryMesh(points, faces), right=InMemoryMesh(points + 20, faces))
    data = {part: rng.standard_normal((side**2, n)).astype(np.float32) for part in ("left", "right")}
    return SurfaceImage(mesh, data)


@pytest.mark.parametrize("method", METHODS)
def test_surfaces(method: str) -> None:
    img = surface()
    how = {"method": method, "n_parcels": 6, "smoothing_fwhm": None}
    with warnings.catch_warnings():
        if method in EXACT:  # of scikit-learn: the hemispheres do not touch
            warnings.filterwarnings("ignore", message="the number of connected components")
        ours = Parcellations(**how).fit(img)
    signals = ours.transform(img)
    assert signals.shape == (12, 6)
    parts = ours.labels_img_.data.parts
    numbers = np.concatenate([parts["left"], parts["right"]]).ravel()
    values = np.concatenate([img.data.parts["left"], img.data.parts["right"]])
    np.testing.assert_allclose(signals[:, 2], values[numbers == 3].mean(axis=0), rtol=1e-4, atol=1e-5)
    back = ours.inverse_transform(signals)
    assert back.shape == img.shape
    if method in EXACT:
        theirs = quiet(nilearn_parcellations(**how).fit, img)
        want = np.concatenate(list(theirs.labels_img_.data.parts.values())).ravel()
        np.testing.assert_array_equal(numbers, want)


def test_what_is_refused() -> None:
    img = run(6)
    with pytest.raises(ValueError, match="Parcellation method is specified as None"):
        Parcellations().fit(img)
    with pytest.raises(ValueError, match="'method' must be one of"):
        Parcellations("wards").fit(img)
    with pytest.raises(UsageError, match="n_parcels is 505, but the mask holds 504"):
        Parcellations("kmeans", n_parcels=505, mask=whole()).fit(img)
    with pytest.raises(UsageError, match="n_iter should be"):
        Parcellations("rena", n_parcels=5, n_iter=0, mask=whole()).fit(img)
    with pytest.raises(DataError, match="an empty list was given"):
        Parcellations("ward").fit([])
    with pytest.raises(DataError, match="must match number of images"):
        Parcellations("ward", mask=whole()).fit(img, confounds=[np.ones((6, 1))] * 2)
    with pytest.raises(TypeError, match="'mask' must be of type"):
        Parcellations("ward", mask=3).fit(img)
    with pytest.raises(TypeError, match="'detrend' must be of type"):
        Parcellations("ward", detrend="yes").fit(img)
    with pytest.raises(NotFittedError):
        Parcellations("ward").transform(img)
    with pytest.raises(NotImplementedError):
        Parcellations("ward").set_output(transform="pandas")
    fitted = Parcellations("ward", n_parcels=5, mask=whole()).fit(img)
    with pytest.raises(DataError, match="Number of confounds given"):
        fitted.transform(img, confounds=[np.ones((6, 1))] * 2)
    with pytest.raises(DataError, match="has wrong shape"):
        fitted.inverse_transform(np.ones((6, 4)))
    with pytest.warns(UserWarning, match="Casting boolean input"):
        fitted.inverse_transform(np.ones((6, 5), bool))


def test_conventions_of_scikit_learn() -> None:
    parcels = Parcellations("ward", n_parcels=5, mask=whole())
    assert clone(parcels).n_parcels == 5
    assert parcels.__sklearn_tags__().input_tags.niimg_like
    assert parcels.fit_transform(run(6)).shape == (6, 5)


def test_fewer_labels_than_asked_for_is_said() -> None:
    data = np.zeros((*SHAPE, 5), np.float32)
    data[4, 4, 4], data[2, 2, 2] = 1, [0, 1, 0, 1, 0]
    with pytest.warns(UserWarning, match="does not match the requested number of parcels"):
        Parcellations("kmeans", n_parcels=20, mask=whole(), smoothing_fwhm=None).fit(nibabel.Nifti1Image(data, AFFINE))


def test_haxby_equals_nilearn(open_data: Path) -> None:
    folder = open_data / "haxby2001_pymvpa"
    imgs = nibabel.load(folder / "bold.nii.gz").slicer[..., :121]
    how = {"method": "ward", "n_parcels": 30, "mask": str(folder / "mask.nii.gz")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the number of connected components")
        ours = Parcellations(**how).fit(imgs)
    theirs = quiet(nilearn_parcellations(**how).fit, imgs)
    np.testing.assert_array_equal(labels(ours), labels(theirs))
    np.testing.assert_allclose(ours.transform(imgs), quiet(theirs.transform, imgs), rtol=1e-3, atol=1e-3)
