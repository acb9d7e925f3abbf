"""The estimator and the measures of quality: scikit-learn's conventions, its numbers, bad input, real runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.base import clone
from sklearn.cluster import FeatureAgglomeration
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline

from gpuroi.backends.base import Backend
from gpuroi.backends.probe import CudaDevice, CudaStatus
from gpuroi.domains import ParcelGraph, VoxelGrid
from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.parcels import Parcellation, adjusted_rand, dice, explained_variance, reproducibility
from gpuroi.parcels.numbering import numbered_by_first, pieces

METHODS = ("ward", "kmeans", "rena", "hierarchical_kmeans")
SHAPE = (7, 8, 6)
AFFINE = np.array([[2.0, 0, 0, -5], [0, 2, 0, 3], [0, 0, 2.5, 1], [0, 0, 0, 1]])


def run(n: int = 20, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A smooth run, float32 (X, Y, Z, n)."""
    rng = np.random.default_rng(seed)
    return np.stack([gaussian_filter(rng.standard_normal(shape), 1.0) for _ in range(n)], axis=-1).astype(np.float32)


def image(data: np.ndarray, affine: np.ndarray = AFFINE) -> Any:
    return nibabel.Nifti1Image(data, affine)


def matrix(data: np.ndarray) -> np.ndarray:
    return data.reshape(-1, data.shape[-1]).T


@pytest.mark.parametrize("method", METHODS)
def test_images_and_arrays_give_the_same(method: str, backend: Backend) -> None:
    data, grid = run(), VoxelGrid(np.ones(SHAPE), AFFINE)
    on_images = Parcellation(method, 12, device="cpu").fit(image(data))
    on_arrays = Parcellation(method, 12, domain=grid, device="cpu").fit(backend.asarray(matrix(data)))
    np.testing.assert_array_equal(on_images.labels_, on_arrays.labels_)
    assert on_images.labels_.dtype == np.int32
    assert np.array_equal(np.unique(on_images.labels_), np.arange(1, 13))
    np.testing.assert_array_equal(on_images.labels_, numbered_by_first(on_images.labels_) + 1)
    volume = np.asarray(on_images.labels_img_.dataobj)
    np.testing.assert_array_equal(volume.reshape(-1), on_images.labels_)
    np.testing.assert_array_equal(on_images.labels_img_.affine, AFFINE)
    assert on_images.sizes_.sum() == grid.n_elements


@pytest.mark.kernels
def test_devices_give_the_same_parcels(standin_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CudaStatus(usable=True, devices=(CudaDevice("stand-in", "9.0", 1 << 30, None),))
    monkeypatch.setattr("gpuroi.backends.probe.probe", lambda: found)  # there is no driver to ask
    data = run()
    for method in ("kmeans", "hierarchical_kmeans"):
        labels = [Parcellation(method, 9, fwhm_mm=4.0, device=d).fit(image(data)).labels_ for d in ("cpu", "cuda")]
        np.testing.assert_array_equal(*labels)


def test_ward_is_feature_agglomeration() -> None:
    from scipy.sparse import csr_matrix

    data, grid = matrix(run()), VoxelGrid(np.ones(SHAPE), AFFINE, connectivity=18)
    links = csr_matrix((np.ones(len(grid.indices)), grid.indices, grid.indptr))
    theirs = FeatureAgglomeration(15, connectivity=links).fit(data)
    ours = Parcellation("ward", 15, domain=grid).fit(data)
    np.testing.assert_array_equal(ours.labels_ - 1, numbered_by_first(theirs.labels_))
    order = np.array([theirs.labels_[ours.labels_ == i][0] for i in range(1, 16)])
    np.testing.assert_allclose(ours.transform(data), theirs.transform(data)[:, order], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_transform_is_the_mean_and_inverse_transform_spreads_it(method: str, backend: Backend) -> None:
    data = matrix(run())
    parcels = Parcellation(method, 10, domain=VoxelGrid(np.ones(SHAPE)), device="cpu").fit(data)
    signals = backend.to_numpy(parcels.transform(backend.asarray(data)))
    want = np.stack([data[:, parcels.labels_ == i].mean(axis=1, dtype=float) for i in range(1, 11)], axis=1)
    np.testing.assert_allclose(signals, want, rtol=1e-12, atol=1e-12)
    assert signals.dtype == np.float64
    spread = backend.to_numpy(parcels.inverse_transform(backend.asarray(signals)))
    np.testing.assert_array_equal(spread, signals[:, parcels.labels_ - 1])
    np.testing.assert_allclose(backend.to_numpy(parcels.transform(backend.asarray(spread))), signals, atol=1e-12)
    rest = ((data - spread) ** 2).sum() / ((data - data.mean(axis=1, keepdims=True)) ** 2).sum()
    assert parcels.score(data) == pytest.approx(1 - rest, rel=1e-6)


def test_images_come_back_as_images(tmp_path: Path) -> None:
    data = run()
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    nibabel.save(image(data), tmp_path / "bold.nii.gz")
    parcels = Parcellation("ward", 8, mask=image(mask)).fit(str(tmp_path / "bold.nii.gz"))
    signals = parcels.transform(tmp_path / "bold.nii.gz")
    back = parcels.inverse_transform(signals)
    assert back.shape == data.shape
    assert back.get_data_dtype() == np.float32
    np.testing.assert_array_equal(back.affine, AFFINE)
    values = np.asarray(back.dataobj)
    assert not values[mask == 0].any()
    labels = np.asarray(parcels.labels_img_.dataobj)
    np.testing.assert_allclose(values[labels == 3], np.tile(signals[:, 2], ((labels == 3).sum(), 1)), rtol=1e-6)
    assert parcels.inverse_transform(signals[0]).shape == SHAPE


def test_several_runs_are_one_set_of_samples() -> None:
    first, second = run(12, 1), run(15, 2)
    both = Parcellation("ward", 9).fit([image(first), image(second)])
    joined = Parcellation("ward", 9).fit(image(np.concatenate([first, second], axis=-1)))
    np.testing.assert_array_equal(both.labels_, joined.labels_)
    assert both.transform([image(first), image(second)]).shape == (27, 9)


def test_standardize_forgets_scale_and_offset_of_each_run() -> None:
    rng = np.random.default_rng(0)
    first, second = run(12, 1), run(15, 2)
    want = Parcellation("ward", 9, standardize=True).fit([image(first), image(second)]).labels_
    scaled = [(r * rng.uniform(1, 5, (*SHAPE, 1)) + 100 * rng.standard_normal((*SHAPE, 1))) for r in (first, second)]
    got = Parcellation("ward", 9, standardize=True).fit([image(s.astype(np.float32)) for s in scaled])
    np.testing.assert_array_equal(got.labels_, want)


def test_smoothing_is_that_of_gpuroi_smooth_within_the_mask() -> None:
    from gpuroi.ops import smooth

    data, mask = run(), np.ones(SHAPE, bool)
    mask[0] = False
    grid = VoxelGrid(mask, AFFINE)
    smoothed = smooth(np.moveaxis(data, -1, 0), 5.0, (2.0, 2.0, 2.5), mask=mask)
    want = Parcellation("ward", 7, domain=grid).fit(grid.from_volume(smoothed)).labels_
    got = Parcellation("ward", 7, mask=image(mask.astype(np.uint8)), fwhm_mm=5.0).fit(image(data)).labels_
    np.testing.assert_array_equal(got, want)


def test_another_number_from_the_same_tree() -> None:
    data = run()
    fine = Parcellation("ward", 40).fit(image(data))
    coarse = fine.with_n_parcels(6)
    np.testing.assert_array_equal(coarse.labels_, Parcellation("ward", 6).fit(image(data)).labels_)
    assert (coarse.n_parcels, coarse.n_parcels_, fine.n_parcels_) == (6, 6, 40)
    assert coarse.tree_ is fine.tree_
    assert np.asarray(coarse.labels_img_.dataobj).max() == 6
    with pytest.raises(UsageError, match="makes no tree"):
        Parcellation("kmeans", 4).fit(image(data)).with_n_parcels(3)


def test_split_pieces_makes_connected_parcels() -> None:
    data = run()
    whole = Parcellation("kmeans", 10).fit(image(data))
    split = Parcellation("kmeans", 10, split_pieces=True).fit(image(data))
    np.testing.assert_array_equal(split.labels_ - 1, pieces(whole.labels_, whole.domain_.graph))
    assert split.n_parcels_ > 10


def test_conventions_of_scikit_learn() -> None:
    data = matrix(run())
    parcels = Parcellation("kmeans", n_parcels=5, seed=3, domain=VoxelGrid(np.ones(SHAPE)))
    assert clone(parcels).get_params()["seed"] == 3
    assert parcels.set_params(n_parcels=6).n_parcels == 6
    with pytest.raises(NotFittedError):
        parcels.transform(data)
    assert parcels.fit(data) is parcels
    assert list(parcels.get_feature_names_out()) == [f"parcellation{i}" for i in range(6)]
    again = clone(parcels).fit(data)
    np.testing.assert_array_equal(again.labels_, parcels.labels_)
    assert clone(parcels).fit_transform(data).shape == (20, 6)
    y = data[:, :50].mean(axis=1)
    model = make_pipeline(Parcellation("ward", 8, domain=VoxelGrid(np.ones(SHAPE))), LinearRegression())
    assert model.fit(data, y).score(data, y) > 0.5
    assert model.set_params(parcellation__n_parcels=4).fit(data, y)[0].n_parcels_ == 4


def test_any_domain_with_neighbours() -> None:
    graph = ParcelGraph([3, 5, 9, 12], [(3, 5), (5, 9), (9, 12)])
    data = np.array([[0.0, 0.1, 5.0, 5.1], [1.0, 1.1, 2.0, 2.2]])
    assert Parcellation("ward", 2, domain=graph).fit(data).labels_.tolist() == [1, 1, 2, 2]
    assert Parcellation("rena", 2, domain=graph).fit(data).labels_.tolist() == [1, 1, 2, 2]


def test_one_map_is_enough() -> None:
    assert Parcellation("ward", 5).fit(image(run(1)[..., 0])).n_parcels_ == 5


def test_without_a_mask_dead_voxels_are_left_out() -> None:
    data = run()
    data[0], data[1, 0] = 7.0, np.nan
    parcels = Parcellation("ward", 5).fit(image(data))
    labels = np.asarray(parcels.labels_img_.dataobj)
    assert not labels[0].any()
    assert not labels[1, 0].any()
    assert labels[1:, 1:].all()


def broken(value: float, where: tuple[Any, ...]) -> np.ndarray:
    data = run()
    data[where] = value
    return data


@pytest.mark.parametrize(
    ("data", "settings", "error", "says"),
    [
        (run(), {"n_parcels": 337}, UsageError, "337 parcels asked for, but there are 336 elements"),
        (run(), {"n_parcels": 0}, UsageError, "n_parcels is 0"),
        (run(), {"n_parcels": 2.5}, UsageError, "n_parcels is 2.5"),
        (run(), {"method": "spectral"}, UsageError, 'method is "spectral"'),
        (broken(3.0, (2, 3, 1)), {}, DataError, r"1 of 336 elements \(the first is voxel \(2, 3, 1\)\) are constant"),
        (broken(np.nan, (2, 3, 1, 4)), {}, DataError, r"voxel \(2, 3, 1\)\) hold NaN"),
        (broken(np.inf, (slice(2), 3, 1, 0)), {}, DataError, "2 of 336 elements"),
    ],
)
def test_bad_images(data: np.ndarray, settings: dict[str, Any], error: type[Exception], says: str) -> None:
    mask = image(np.ones(SHAPE, np.uint8))
    with pytest.raises(error, match=says):
        Parcellation(**{"n_parcels": 5, "mask": mask, **settings}).fit(image(data))


def test_a_mask_on_another_grid() -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 1
    with pytest.raises(GridError):
        Parcellation(n_parcels=5, mask=image(np.ones(SHAPE, np.uint8), moved)).fit(image(run()))
    with pytest.raises(GridError):
        Parcellation(n_parcels=5).fit([image(run()), image(run(), moved)])


def test_bad_arrays() -> None:
    data, grid = matrix(run()), VoxelGrid(np.ones(SHAPE))
    with pytest.raises(UsageError, match="has to know which elements are neighbours"):
        Parcellation("ward", 5).fit(data)
    with pytest.raises(UsageError, match="has to know which elements are neighbours"):
        Parcellation("kmeans", 5, split_pieces=True).fit(data)
    with pytest.raises(DataError, match="X has 335 columns"):
        Parcellation("ward", 5, domain=grid).fit(data[:, 1:])
    with pytest.raises(DataError, match="the first is element 4\\) are constant"):
        Parcellation("kmeans", 5).fit(np.where(np.arange(336) == 4, 1.0, data))
    with pytest.raises(DataError, match="3 parcels asked for, but the data could be divided into 2 only"):
        Parcellation("kmeans", 3).fit(np.array([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 3.0, 3.0]]))
    with pytest.raises(UsageError, match="fwhm_mm is for images"):
        Parcellation("kmeans", 3, fwhm_mm=4).fit(data)
    fitted = Parcellation("kmeans", 3).fit(data)
    with pytest.raises(DataError, match="learnt from 336"):
        fitted.transform(data[:, 1:])
    with pytest.raises(DataError, match=r"expected \(n_samples, 3\)"):
        fitted.inverse_transform(np.ones((2, 4)))
    with pytest.raises(UsageError, match="not made of voxels"):
        fitted.transform(image(run()))


def test_more_pieces_than_parcels_is_said() -> None:
    data, mask = run(), np.ones(SHAPE, np.uint8)
    mask[1::2] = 0
    with pytest.warns(UserWarning, match="4 parcels instead of 2: the mask is in 4 pieces"):
        parcels = Parcellation("rena", 2, mask=image(mask)).fit(image(data))
    assert parcels.n_parcels_ == 4
    assert Parcellation("ward", 2, mask=image(mask)).fit(image(data)).n_parcels_ == 2


@given(
    a=st.lists(st.integers(0, 5), min_size=30, max_size=30), b=st.lists(st.integers(-3, 3), min_size=30, max_size=30)
)
def test_adjusted_rand_is_that_of_scikit_learn(a: list[int], b: list[int]) -> None:
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)
    assert adjusted_rand(a, a) == 1.0


@given(a=st.lists(st.integers(0, 3), min_size=20, max_size=20), b=st.lists(st.integers(0, 3), min_size=20, max_size=20))
def test_dice_is_that_of_the_best_matching(a: list[int], b: list[int]) -> None:
    first, second = np.array(a), np.array(b)
    ids, others = np.unique(first), np.unique(second)
    if len(ids) > len(others):
        ids, others, first, second = others, ids, second, first

    def one(i: int, j: int) -> float:
        inside = (first == i).sum() + (second == j).sum()
        return 2 * ((first == i) & (second == j)).sum() / inside

    best = max(sum(itertools.starmap(one, zip(ids, p, strict=True))) for p in itertools.permutations(others, len(ids)))
    assert dice(a, b) == pytest.approx(best / len(others))
    assert dice(a, b) == pytest.approx(dice(b, a))


def test_explained_variance_at_its_ends(backend: Backend) -> None:
    data = matrix(run())
    assert explained_variance(backend.asarray(data), np.ones(336, int)) == pytest.approx(0, abs=1e-6)
    assert explained_variance(data, np.arange(336)) == pytest.approx(1)
    with pytest.raises(DataError, match="no variance to explain"):
        explained_variance(np.ones((2, 4)), np.arange(4))
    with pytest.raises(DataError, match="expected \\(n, v\\) and \\(v,\\)"):
        explained_variance(data, np.arange(335))


def test_reproducibility_is_high_where_there_are_parcels_and_low_where_there_are_none() -> None:
    rng = np.random.default_rng(0)
    grid = VoxelGrid(np.ones((1, 4, 24)))
    blocks = np.repeat(rng.standard_normal((40, 4, 4)), 6, axis=2).reshape(40, 96)
    clear = blocks + 0.2 * rng.standard_normal(blocks.shape)
    parcels = Parcellation("ward", 16, domain=grid)
    for how in ("halves", "bootstrap"):
        good = reproducibility(parcels, clear, how=how, n_resamples=3)
        noise = reproducibility(parcels, rng.standard_normal((40, 96)), how=how, n_resamples=3)
        assert good.dice.min() > 0.99
        assert good.adjusted_rand.min() > 0.99
        assert noise.adjusted_rand.max() < 0.8
    assert not hasattr(parcels, "labels_")
    np.testing.assert_array_equal(
        reproducibility(parcels, clear, n_resamples=2).dice, reproducibility(parcels, clear, n_resamples=2).dice
    )
    with pytest.raises(UsageError, match='how is "thirds"'):
        reproducibility(parcels, clear, how="thirds")
    with pytest.raises(DataError, match="four samples"):
        reproducibility(parcels, clear[:3])


@pytest.mark.parametrize("method", METHODS)
def test_haxby(open_data: Path, method: str) -> None:
    """Twelve runs of a real slice: parcels of odd runs describe even ones."""
    folder = open_data / "haxby2001_pymvpa"
    whole = nibabel.load(folder / "bold.nii.gz")
    data = np.asarray(whole.dataobj, dtype=np.float32)
    odd = np.arange(1452) // 121 % 2 == 1
    mask = folder / "mask.nii.gz"
    how: dict[str, Any] = {"mask": mask, "standardize": True}
    first = Parcellation(method, 40, **how).fit(image(data[..., odd], whole.affine))
    second = Parcellation(method, 40, **how).fit(image(data[..., ~odd], whole.affine))
    values = second.domain_.from_volume(np.moveaxis(data[..., ~odd], -1, 0))
    values = (values - values.mean(axis=0)) / values.std(axis=0)  # what was learnt from, and not the mean image
    shuffled = np.random.default_rng(0).permutation(first.labels_)
    assert explained_variance(values, first.labels_) > explained_variance(values, shuffled) + 0.15
    assert adjusted_rand(first.labels_, second.labels_) > 0.1  # 0 by chance
    assert dice(first.labels_, second.labels_) > dice(shuffled, second.labels_) + 0.1
