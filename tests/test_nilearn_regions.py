"""Regions of maps and atlases: nilearn's answers where it is right, and SciPy, networkx-free brute force elsewhere."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nilearn import regions as theirs
from nilearn._utils.ndimage import peak_local_max
from nilearn.exceptions import DimensionError
from nilearn.regions.signal_extraction import img_to_signals_maps as their_maps_to_signals
from nilearn.regions.signal_extraction import signals_to_img_maps as their_signals_to_maps
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn.connected import connected_label_regions, connected_regions
from gpuroi.nilearn.map_signals import img_to_signals_maps, signals_to_img_maps
from gpuroi.nilearn.region_extractor import RegionExtractor
from gpuroi.nilearn.region_seeds import local_maxima, random_walk

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
BOTH = ("connected_components", "local_regions")
SMALL = arrays(np.int8, st.tuples(*[st.integers(1, 7)] * 3), elements=st.sampled_from([0, 0, 1, 2, 5]))


def image(data: np.ndarray, affine: np.ndarray = AFFINE) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(data, affine)


def voxels(img: Any) -> np.ndarray:
    return np.asanyarray(img.dataobj)


def smooth_noise(seed: int, shape: tuple[int, ...] = (30, 34, 28)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.0)
    return (noise / noise.std()).astype(np.float32)


def blobs(*, centres: list[tuple[int, int, int]], shape: tuple[int, ...] = (30, 34, 28)) -> np.ndarray:
    """Peaks of different height that touch: all in one component."""
    data = np.zeros(shape, np.float32)
    grid = np.indices(shape)
    for k, centre in enumerate(centres):
        distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
        data += np.where(distance < 81, (3 + k) * np.exp(-distance / 30), 0).astype(np.float32)
    return data


def real_maps(folder: Path) -> dict[str, Any]:
    """Thresholded maps, in native byte order: nilearn cannot label others."""
    maps = {}
    for name, least in [
        ("statmaps/motor_lips.nii.gz", 3.0),
        ("statmaps/image_10426.nii.gz", 2.0),
        ("epi_oro/zstat1.nii.gz", 2.5),
    ]:
        img = nibabel.load(folder / name)
        data = np.nan_to_num(img.get_fdata(dtype=np.float32))
        maps[name] = nibabel.Nifti1Image(np.where(data >= least, data, 0).astype(np.float32), img.affine)
    return maps


# ------------------------------------------------------------------------------------------- connected_regions


def agree(maps: Any, size: float, extract_type: str, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, want_index = theirs.connected_regions(maps, size, extract_type, **options)
        got, index = connected_regions(maps, size, extract_type, **options)
    assert index == want_index
    assert got.shape == want.shape
    assert got.get_data_dtype() == want.get_data_dtype()
    assert got.header == want.header
    np.testing.assert_array_equal(voxels(got), voxels(want))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_components_are_nilearns(order: Any, dtype: Any) -> None:
    data = smooth_noise(0) * 3
    data[np.abs(data) < 5] = 0
    agree(image(np.array(data, dtype, order=order)), 60, "connected_components")


def test_components_of_several_maps_and_a_mask() -> None:
    maps = np.stack([np.where(smooth_noise(k) > 1.2, smooth_noise(k), 0) for k in range(3)], axis=3)
    inside = np.zeros(maps.shape[:3], np.uint8)
    inside[3:20, 5:, 2:] = 1
    agree(image(maps), 40, "connected_components", mask_img=image(inside))


def test_mask_on_another_grid() -> None:
    maps = np.where(smooth_noise(4) > 1, smooth_noise(4), 0).astype(np.float32)
    coarse = nibabel.Nifti1Image(np.ones((10, 12, 9), np.uint8), np.diag([-4.0, 4.0, 4.0, 1.0]))
    agree(image(maps), 40, "connected_components", mask_img=coarse)


@pytest.mark.parametrize("fwhm", [None, 4.0, 6])
def test_local_regions_are_nilearns(fwhm: Any) -> None:
    # one component: nilearn's solver reaches all of it
    agree(image(blobs(centres=[(8, 8, 8), (8, 20, 8), (20, 14, 14)])), 50, "local_regions", smoothing_fwhm=fwhm)


def test_local_regions_without_smoothing_warn_once() -> None:
    maps = image(blobs(centres=[(8, 8, 8), (8, 20, 8)]))
    with pytest.warns(UserWarning, match="specified as 0") as said:
        connected_regions(maps, 50, smoothing_fwhm=0)
    assert len(said) == 1


@pytest.mark.parametrize("extract_type", BOTH)
def test_real_maps(open_data: Path, extract_type: str) -> None:
    for name, img in real_maps(open_data).items():
        if extract_type == "connected_components" or "zstat1" not in name:  # there nilearn's solver does not converge
            agree(img, 400, extract_type)


def test_a_component_with_one_peak_is_one_region(open_data: Path) -> None:
    # nilearn gives 47 voxels of this map to the peak of another component, where its solver has not arrived
    img = nibabel.load(open_data / "statmaps" / "image_10426.nii.gz")
    data = np.nan_to_num(img.get_fdata(dtype=np.float32))
    data[np.abs(data) < np.percentile(np.abs(data), 95)] = 0
    regions, _ = connected_regions(nibabel.Nifti1Image(data, img.affine), 10, "local_regions")
    for k in range(regions.shape[3]):
        _, n = ndimage.label(voxels(regions)[..., k])
        assert n == 1


@pytest.mark.parametrize("extract_type", BOTH)
def test_on_the_cuda_stand_in(standin_cuda: None, monkeypatch: pytest.MonkeyPatch, extract_type: str) -> None:
    maps = image(blobs(centres=[(8, 8, 8), (8, 20, 8)]))
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    want, want_index = connected_regions(maps, 50, extract_type)
    monkeypatch.setenv("GPUROI_DEVICE", "cuda")
    got, index = connected_regions(maps, 50, extract_type)
    assert index == want_index
    np.testing.assert_array_equal(voxels(got), voxels(want))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("extract_type", BOTH)
def test_values_that_are_not_finite_are_outside(value: float, extract_type: str) -> None:
    clean = blobs(centres=[(8, 8, 8), (8, 20, 8)])
    broken = clean.copy()
    broken[20:, :5] = value
    assert not clean[20:, :5].any()
    want, want_index = connected_regions(image(clean), 50, extract_type)
    with pytest.warns(UserWarning, match="Non-finite values"):
        got, index = connected_regions(image(broken), 50, extract_type)
    assert index == want_index
    np.testing.assert_array_equal(voxels(got), voxels(want))
    assert np.isnan(broken).any() == np.isnan(value)  # the image given is not written to


def test_stored_types(open_data: Path, tmp_path: Path) -> None:
    data = np.round(blobs(centres=[(8, 8, 8), (20, 20, 20)]) * 10)
    want, _ = connected_regions(image(data), 50, "connected_components")
    for stored in (">i2", "<i4", ">f4", "u1"):
        path = tmp_path / f"map_{stored[1:]}.nii.gz"
        header = nibabel.Nifti1Header(endianness=stored[0] if stored[0] in "<>" else "<")
        header.set_data_dtype(stored)
        nibabel.Nifti1Image(data.astype(stored), AFFINE, header).to_filename(path)
        got, _ = connected_regions(path, 50, "connected_components")
        np.testing.assert_array_equal(voxels(got), voxels(want))
    one_frame, index = connected_regions(image(data[..., None]), 50, "connected_components")
    assert index == [0] * want.shape[3]
    np.testing.assert_array_equal(voxels(one_frame), voxels(want))


def test_size_is_strictly_more_and_in_mm3() -> None:
    data = np.zeros((9, 9, 9), np.float32)
    data[1:4, 1:4, 1:4], data[6:8, 6:8, 6:8] = 1, 2  # 27 and 8 voxels
    oblique = nibabel.affines.from_matvec(0.1 ** (1 / 3) * np.linalg.qr(np.ones((3, 3)) + np.eye(3))[0], [1, 2, 3])
    for limit, n in [(0.79, 2), (0.8, 1), (2.69, 1), (2.7, 0)]:
        if n:
            assert connected_regions(image(data, oblique), limit, "connected_components")[0].shape[3] == n
        else:
            with pytest.warns(UserWarning, match="No supra threshold regions"):
                assert connected_regions(image(data, oblique), limit, "connected_components") == (None, None)


@given(SMALL)
def test_components_by_scipy(data: np.ndarray) -> None:
    labels, n = ndimage.label(data)
    if n == 0:
        return
    got, index = connected_regions(image(data.astype(np.float32)), 0, "connected_components")
    assert index == [0] * n
    for k in range(n):
        np.testing.assert_array_equal(voxels(got)[..., k], np.where(labels == k + 1, data, 0))


def test_refused() -> None:
    maps = image(np.ones((4, 4, 4), np.float32))
    with pytest.raises(UsageError, match="'extract_type' must be one of"):
        connected_regions(maps, extract_type="spam")
    with pytest.raises(TypeError, match="smoothing_fwhm"):
        connected_regions(maps, smoothing_fwhm="fast")
    with pytest.raises(TypeError, match="NiftiLike"):
        connected_regions(3)


# ------------------------------------------------------------------------------------------- peaks and the walker


@pytest.mark.parametrize("seed", range(4))
def test_maxima_are_nilearns(seed: int) -> None:
    data = smooth_noise(seed)
    np.testing.assert_array_equal(local_maxima(data), peak_local_max(data))


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_no_maximum_in_a_constant_volume(value: float) -> None:
    assert not local_maxima(np.full((5, 6, 7), value, np.float32)).any()


def test_a_plateau_is_all_peaks() -> None:
    data = np.zeros((24, 24, 24), np.float32)
    data[2:18, 2:18, 2:18] = 3  # more voxels than are looked at one by one
    np.testing.assert_array_equal(local_maxima(data), peak_local_max(data))
    assert local_maxima(data).sum() == 16**3


def walk_exactly(values: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The graph of open voxels and seeds, link by link, and its exact solution."""
    steepness = 130.0 / (10 * values.std())
    at = {tuple(p): i for i, p in enumerate(np.argwhere(seeds == 0))}
    numbers = np.unique(seeds[seeds > 0])
    laplacian, right = sparse.lil_matrix((len(at), len(at))), np.zeros((len(at), len(numbers)))
    for place, i in at.items():
        for axis in range(3):
            for step in (-1, 1):
                there = list(place)
                there[axis] += step
                if not 0 <= there[axis] < seeds.shape[axis] or seeds[tuple(there)] < 0:
                    continue
                weight = np.exp(-steepness * (values[place] - values[tuple(there)]) ** 2) + 1e-10
                laplacian[i, i] += weight
                if tuple(there) in at:
                    laplacian[i, at[tuple(there)]] -= weight
                else:
                    right[i, numbers == seeds[tuple(there)]] += weight
    chance = spsolve(laplacian.tocsc(), right).reshape(len(at), -1)
    result = seeds.copy()
    for place, i in at.items():
        result[place] = numbers[np.argmax(chance[i])]
    return result


@pytest.mark.parametrize("seed", range(5))
def test_walker_against_the_exact_solution(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.random((7, 6, 8))
    seeds = np.zeros(values.shape, np.int32)
    seeds[1, 1, 1], seeds[5, 4, 6], seeds[1, 4, 6] = 1, 2, 3
    seeds[3, :, :4] = -1
    got = random_walk(values, seeds, (slice(None),) * 3)
    assert (got != walk_exactly(values, seeds)).mean() < 0.02  # within 1e-3 a few voxels lie between two seeds


def test_walker_that_does_not_converge_is_solved_directly(open_data: Path) -> None:
    # links of 1e-10 beside links of 1: nilearn stops after 49 050 steps, two thirds of its labels are chance
    img = nibabel.load(open_data / "epi_oro" / "zstat1.nii.gz")
    values = np.where(np.abs(img.get_fdata()) >= 1.5, img.get_fdata(), 0).astype(np.float32)[20:44, 20:44, 4:14]
    seeds, _ = ndimage.label(local_maxima(ndimage.gaussian_filter(values, 1.0)))
    seeds = np.where(values != 0, seeds, -1).astype(np.int32)
    walked = random_walk(values, seeds, (slice(None),) * 3)
    kept = np.where(walked >= 0, seeds, -1)  # walker and oracle on what a seed can reach
    np.testing.assert_array_equal(walked[kept == 0], walk_exactly(values, kept)[kept == 0])


def test_walker_leaves_what_it_cannot_reach() -> None:
    seeds = np.full((3, 9, 1), -1, np.int32)
    seeds[0] = 0
    seeds[0, 0], seeds[2, 0], seeds[2, 4:6] = 2, 7, 0  # seed 7 has no open neighbour, the last two no seed
    walked = random_walk(np.random.default_rng(0).random(seeds.shape), seeds, (slice(None),) * 3)
    assert (walked[0] == 2).all()
    assert (walked[1:] == -1).all()


@pytest.mark.parametrize(("fill", "says"), [(1, "No zero valued areas"), (0, "no seed label")])
def test_walker_without_work(fill: int, says: str) -> None:
    seeds = np.full((3, 3, 3), fill, np.int32)
    with pytest.warns(UserWarning, match=says):
        np.testing.assert_array_equal(random_walk(np.ones(seeds.shape), seeds, (slice(None),) * 3), seeds)


# ------------------------------------------------------------------------------------------- connected_label_regions


@pytest.mark.parametrize("options", [{}, {"min_size": 100}, {"connect_diag": False}])
def test_real_atlases(open_data: Path, options: dict[str, Any]) -> None:
    for name in ("HarvardOxford-cort-maxprob-thr25-2mm.nii.gz", "Yeo_17_Liberal_2mm_split.nii.gz"):
        path = open_data / "atlas" / name
        got, want = connected_label_regions(path, **options), theirs.connected_label_regions(path, **options)
        np.testing.assert_array_equal(voxels(got), voxels(want))
        np.testing.assert_array_equal(got.affine, want.affine)


@given(SMALL, st.sampled_from([6, 26]), st.booleans())
def test_pieces_by_scipy(data: np.ndarray, connectivity: int, fortran: bool) -> None:
    structure = ndimage.generate_binary_structure(3, {6: 1, 26: 3}[connectivity])
    want = np.zeros(data.shape, int)
    n, names = 0, []
    ids = [i for i in np.unique(data) if i]
    for i in ids:
        labels, k = ndimage.label(data == i, structure)
        want[labels > 0] = labels[labels > 0] + n
        n += k
        names += [f"region {i}"] * k
    given = image(np.array(data, np.int16, order="F" if fortran else "C"))
    got, found = connected_label_regions(given, connect_diag=connectivity == 26, labels=[f"region {i}" for i in ids])
    np.testing.assert_array_equal(voxels(got), want)
    assert found == names


def test_ids_are_never_narrowed(tmp_path: Path) -> None:
    data = np.zeros((40, 30, 2), np.int32)
    data[::2, ::2] = 1  # 600 pieces
    data[1, 1] = 2_000_000_000
    path = tmp_path / "atlas.nii.gz"
    stored = nibabel.Nifti1Image((data > 0).astype(np.uint8), AFFINE)
    connected_label_regions(stored, connect_diag=False).to_filename(path)
    read = nibabel.load(path)
    assert read.get_data_dtype() == np.int32
    assert voxels(read).max() == 301
    wide = voxels(connected_label_regions(image(data), connect_diag=False))
    assert wide[1, 1, 0] == wide.max() == 301


def test_a_region_that_fills_the_image_has_a_size_too() -> None:
    full = image(np.full((3, 3, 3), 4, np.int16))
    assert voxels(connected_label_regions(full, min_size=1000)).max() == 0
    assert voxels(connected_label_regions(full, min_size=100)).min() == 1


def test_label_regions_refused() -> None:
    atlas = image(np.ones((3, 3, 3), np.int16))
    with pytest.raises(UsageError, match="'min_size'"):
        connected_label_regions(atlas, min_size="a")
    with pytest.raises(UsageError, match="'connect_diag'"):
        connected_label_regions(atlas, connect_diag=1)
    with pytest.raises(UsageError, match=r"labels: 2 .* unique labels in labels_img: 1"):
        connected_label_regions(atlas, labels=["a", "b"])
    with pytest.raises(DataError, match="negative"):
        connected_label_regions(image(-np.ones((3, 3, 3), np.int16)))


# ------------------------------------------------------------------------------------------- signals of maps


@pytest.mark.parametrize("kind", ["disjoint", "overlapping", "dependent"])
def test_map_signals_are_least_squares(kind: str) -> None:
    random = np.random.default_rng(0)
    maps = np.zeros((6, 7, 5, 3))
    maps[:2, ..., 0], maps[2:4, ..., 1], maps[4:, ..., 2] = 1, 2, 0.5
    if kind == "overlapping":
        maps += random.random(maps.shape)
    if kind == "dependent":
        maps[..., 2] = maps[..., 0] + maps[..., 1]
    data = random.standard_normal((6, 7, 5, 9))
    mask = image((random.random((6, 7, 5)) > 0.2).astype(np.uint8))
    for options in ({}, {"mask_img": mask}):
        got, labels = img_to_signals_maps(image(data), image(maps), **options)
        want, want_labels = their_maps_to_signals(image(data), image(maps), **options)
        assert labels == want_labels
        np.testing.assert_allclose(got, want, atol=1e-10)
        back, want_back = signals_to_img_maps(got, image(maps), **options), None
        want_back = their_signals_to_maps(got, image(maps), **options)
        np.testing.assert_allclose(voxels(back), voxels(want_back), atol=1e-10)


def test_map_signals_beside_a_mask() -> None:
    maps = np.zeros((4, 4, 4, 2), np.float32)
    maps[:2, ..., 0] = maps[2:, ..., 1] = 1
    data = np.ones((4, 4, 4, 3), np.float32)
    half = np.zeros((4, 4, 4), np.uint8)
    half[:2] = 1
    with pytest.warns(UserWarning, match=r"removed: \{1\}. Out of 2 maps, .* only contains 1 maps"):
        signals, labels = img_to_signals_maps(image(data), image(maps), image(half))
    assert labels == [0]
    assert signals.dtype == np.float32
    with pytest.warns(FutureWarning, match="keep_masked_maps"):
        signals, labels = img_to_signals_maps(image(data), image(maps), image(half), keep_masked_maps=True)
    np.testing.assert_allclose(signals, [[1, 0]] * 3)
    with pytest.raises(DataError, match="No map left"):
        img_to_signals_maps(image(data), image(maps), image(np.zeros((4, 4, 4), np.uint8)))
    data[0, 0, 0, 1] = np.nan
    with pytest.warns(UserWarning, match="Non-finite"):
        assert np.isfinite(img_to_signals_maps(image(data), image(maps))[0]).all()


# ------------------------------------------------------------------------------------------- RegionExtractor


def extractors(**options: Any) -> tuple[Any, Any]:
    maps = np.stack([blobs(centres=[(8, 8, 8), (8, 22, 8)]), blobs(centres=[(20, 10, 14), (20, 24, 14)])], axis=3)
    given = {"maps_img": image(maps), "min_region_size": 100, "standardize": None, **options}
    return RegionExtractor(**given), theirs.RegionExtractor(**given)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.3},
        {"threshold": 1.0, "thresholding_strategy": "img_value", "extractor": "connected_components"},
        {"threshold": 80, "thresholding_strategy": "percentile", "smoothing_fwhm": None},
        {"threshold": 90, "thresholding_strategy": "percentile", "two_sided": True, "dtype": "auto"},
    ],
)
def test_extractor_is_nilearns(options: dict[str, Any]) -> None:
    ours, want = extractors(**options)
    run = image(np.random.default_rng(0).standard_normal((30, 34, 28, 6)).astype(np.float32))
    signals, want_signals = ours.fit_transform(run), want.fit_transform(run)
    assert list(ours.index_) == list(want.index_)
    assert ours.n_elements_ == want.n_elements_
    np.testing.assert_array_equal(voxels(ours.regions_img_), voxels(want.regions_img_))
    assert signals.dtype == want_signals.dtype
    np.testing.assert_allclose(signals, want_signals, rtol=1e-3, atol=1e-5)  # nilearn solves in float32
    back, want_back = ours.inverse_transform(signals), want.inverse_transform(signals)
    np.testing.assert_allclose(voxels(back), voxels(want_back), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["data", "maps", "mask"])
def test_extractor_on_another_grid(target: str) -> None:
    coarse = nibabel.Nifti1Image(
        np.random.default_rng(0).standard_normal((15, 17, 14, 4)).astype(np.float32), np.diag([-4.0, 4.0, 4.0, 1.0])
    )
    mask = image(np.ones((30, 34, 28), np.uint8))
    ours, want = extractors(
        threshold=1.0, thresholding_strategy="img_value", resampling_target=target, mask_img=mask, smoothing_fwhm=None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signals, want_signals = ours.fit_transform(coarse), want.fit_transform(coarse)
    np.testing.assert_allclose(signals, want_signals, rtol=2e-3, atol=1e-4)
    with pytest.raises(DataError, match="do not have the same shape"):
        ours.set_params(resampling_target=None).fit(coarse)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 6, 2, 2), (6, 6, 6, 2, 1)])
@pytest.mark.parametrize("extract_type", BOTH)
def test_maps_of_other_axes_are_named(tmp_path: Path, shape: tuple[int, ...], extract_type: str) -> None:
    path = tmp_path / "maps.nii"
    image(np.ones(shape, np.float32)).to_filename(path)
    message = rf"maps\.nii: .*Expected dimension is 4D and you provided a {len(shape)}D image"
    with pytest.raises(DimensionError, match=message):
        connected_regions(path, extract_type=extract_type)
    with pytest.raises(DimensionError, match=f"image given as Nifti1Image: .*{len(shape)}D image"):
        connected_regions(image(np.ones(shape, np.float32)), extract_type=extract_type)
    with pytest.raises(DimensionError, match=rf"maps\.nii: .*Expected dimension is 3D .* {len(shape)}D image"):
        connected_regions(image(np.ones((6, 6, 6), np.float32)), extract_type=extract_type, mask_img=path)


def test_extractor_fits_twice_and_keeps_its_threshold() -> None:
    ours, _ = extractors(threshold=80, thresholding_strategy="percentile")
    first = ours.fit().index_
    assert ours.threshold == 80
    assert ours.fit().index_ == first


def test_extractor_refuses() -> None:
    for threshold in (None, "30%", True):
        with pytest.raises(UsageError, match="The given input to threshold is not valid"):
            extractors(threshold=threshold)[0].fit()
    with pytest.raises(UsageError, match=r"n_maps=2\. You provided 3"):
        extractors(threshold=3.0)[0].fit()
    with pytest.raises(UsageError, match="'thresholding_strategy' must be one of"):
        extractors(thresholding_strategy="n_")[0].fit()
    with pytest.raises(UsageError, match="no mask has been provided"):
        extractors(resampling_target="mask")[0].fit()
    with (
        pytest.warns(UserWarning, match="No supra"),
        pytest.raises(DataError, match=r"no region is larger than 1000000000"),
    ):
        extractors(min_region_size=1e9)[0].fit()
    same = np.stack([blobs(centres=[(8, 8, 8)])] * 2, axis=3)
    overlapping = extractors(maps_img=image(same), allow_overlap=False)[0].fit()
    with pytest.raises(DataError, match="Overlap detected"):
        overlapping.transform(image(same))
