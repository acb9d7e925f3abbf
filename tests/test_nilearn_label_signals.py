"""Signals of labelled regions: nilearn's and SciPy's answers, and brute force where these are wrong."""

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
from nilearn.exceptions import DimensionError
from scipy import ndimage

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.nilearn.label_columns import label_columns
from gpuroi.nilearn.label_signals import img_to_signals_labels, signals_to_img_labels
from gpuroi.nilearn.label_summaries import STRATEGIES

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SHAPE = (8, 9, 7)


def image(data: np.ndarray, affine: np.ndarray = AFFINE) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(data, affine, dtype=data.dtype)


def voxels(img: Any) -> np.ndarray:
    return np.asanyarray(img.dataobj)


def atlas(ids: tuple[int, ...] = (0, 3, 400, 70_000), dtype: Any = np.int32) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array(ids, dtype), SHAPE)


def run(n: int = 5, dtype: Any = np.float32, order: Any = "F") -> np.ndarray:
    return np.array(100 * np.random.default_rng(1).standard_normal((*SHAPE, n)), dtype, order=order)


def agree(imgs: Any, labels_img: Any, **options: Any) -> None:
    got, ids, masked = img_to_signals_labels(imgs, labels_img, **options)
    want, want_ids, want_masked = theirs.img_to_signals_labels(imgs, labels_img, **options)
    assert [int(i) for i in ids] == [int(i) for i in want_ids]
    assert got.dtype == want.dtype
    assert got.flags.f_contiguous == want.flags.f_contiguous
    np.testing.assert_allclose(got, want, rtol=1e-6 if got.dtype == np.float32 else 1e-12, atol=1e-12)
    np.testing.assert_array_equal(voxels(masked), voxels(want_masked))
    np.testing.assert_array_equal(masked.affine, want_masked.affine)


# ------------------------------------------------------------------------------------------- img_to_signals_labels


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_strategies_are_nilearns(strategy: str, order: Any, dtype: Any) -> None:
    agree(image(run(dtype=dtype, order=order)), image(atlas()), strategy=strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_on_the_cuda_stand_in(standin_cuda: None, monkeypatch: pytest.MonkeyPatch, strategy: str, order: Any) -> None:
    imgs, labels_img = image(run(order=order)), image(atlas())
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    want, _, _ = img_to_signals_labels(imgs, labels_img, strategy=strategy)
    monkeypatch.setenv("GPUROI_DEVICE", "cuda")
    got, _, _ = img_to_signals_labels(imgs, labels_img, strategy=strategy)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@given(
    arrays(np.int16, (3, 4, 5), elements=st.sampled_from([0, 1, 5, 300, 32_000])),
    arrays(np.float64, (3, 4, 5, 2), elements=st.floats(-1e6, 1e6)),
    st.sampled_from(STRATEGIES),
)
def test_strategies_by_brute_force(labels: np.ndarray, data: np.ndarray, strategy: str) -> None:
    ids = [i for i in np.unique(labels) if i]
    if not ids:
        return
    by_numpy = {"minimum": "min", "maximum": "max", "standard_deviation": "std", "variance": "var"}
    want = [[getattr(np, by_numpy.get(strategy, strategy))(data[labels == i, k]) for i in ids] for k in range(2)]
    got, found, _ = img_to_signals_labels(image(data), image(labels), strategy=strategy)
    assert list(found) == ids
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_deviations_keep_their_digits_at_large_means(mean: float) -> None:
    data = (run(3, np.float64) / 100 + mean).astype(np.float32)
    labels = atlas((1, 2), np.int16)
    got, _, _ = img_to_signals_labels(image(data.astype(np.float64)), image(labels), strategy="variance")
    want = [[data[labels == i, k].astype(np.float64).var() for i in (1, 2)] for k in range(3)]
    np.testing.assert_allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "i4", "u4", ">f4", "f8"])
def test_labels_of_every_width(dtype: str, tmp_path: Path) -> None:
    ids = (0, 7, 130, 255) if dtype == "u1" else (0, 7, 200, 32_000)
    labels = atlas(ids, np.dtype(dtype).newbyteorder("="))
    path = tmp_path / "atlas.nii.gz"
    header = nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(dtype)
    nibabel.Nifti1Image(labels, AFFINE, header).to_filename(path)
    signals, found, masked = img_to_signals_labels(image(run()), path)
    assert [int(i) for i in found] == list(ids[1:])
    np.testing.assert_array_equal(voxels(masked), labels)
    np.testing.assert_allclose(signals[2], ndimage.mean(run()[..., 2], labels, ids[1:]), rtol=1e-6)


def test_ids_beyond_int32_stay() -> None:
    labels = atlas((0, 5, 3_000_000_000), np.int64)
    signals, ids, masked = img_to_signals_labels(image(run()), image(labels))
    assert [int(i) for i in ids] == [5, 3_000_000_000]
    np.testing.assert_array_equal(voxels(masked), labels)
    np.testing.assert_allclose(signals[0], [run()[labels == i, 0].mean(dtype=float) for i in ids], rtol=1e-6)


def test_another_background() -> None:
    agree(image(run()), image(atlas((0, 1, 2))), background_label=1)
    agree(image(run()), image(atlas((-4, 1, 2))), background_label=-4)


def test_a_mask_takes_a_region_away() -> None:
    labels = np.zeros(SHAPE, np.int16)
    labels[:3], labels[3:6], labels[6:] = 200, 300, 400
    mask = np.ones(SHAPE, np.uint8)
    mask[3:6] = 0
    imgs, labels_img = image(run()), image(labels)
    with pytest.warns(UserWarning, match=r"removed: \{300\}\. Out of 3 labels, .* only contains 3 labels"):
        signals, ids, masked = img_to_signals_labels(imgs, labels_img, image(mask))
    assert ids == [200, 400]
    assert sorted(np.unique(voxels(masked))) == [0, 200, 400]  # nilearn before 0.14 wrapped them into int8
    np.testing.assert_allclose(signals[:, 1], run()[6:].mean(axis=(0, 1, 2), dtype=float), rtol=1e-6)
    with pytest.warns(FutureWarning, match="keep_masked_labels"):
        kept, ids, _ = img_to_signals_labels(imgs, labels_img, image(mask), keep_masked_labels=True)
    assert ids == [200, 300, 400]
    np.testing.assert_array_equal(kept[:, [0, 2]], signals)
    assert not kept[:, 1].any()
    with pytest.raises(DataError, match="No label left"):
        img_to_signals_labels(imgs, labels_img, image(np.zeros(SHAPE, np.uint8)))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_that_are_not_finite_count_as_zero(strategy: str, order: Any) -> None:
    data, labels = run(order=order), atlas((0, 1, 2))
    where = np.argwhere(labels == 2)[:3]
    for k, value in enumerate((np.nan, np.inf, -np.inf)):
        data[(*where[k], k)] = value
    clean = np.where(np.isfinite(data), data, 0)
    want, _, _ = img_to_signals_labels(image(clean), image(labels), strategy=strategy)
    with pytest.warns(UserWarning, match="Non-finite values detected") as said:
        got, _, _ = img_to_signals_labels(image(data), image(labels), strategy=strategy)
    assert len(said) == 1
    np.testing.assert_array_equal(got, want)
    assert not np.isfinite(data).all()  # the image given is not written to


def test_what_lies_outside_of_regions_does_not_matter() -> None:
    data, labels = run(), atlas((0, 1, 2))
    data[labels == 0] = np.nan
    got, _, _ = img_to_signals_labels(image(data), image(labels))
    assert np.isfinite(got).all()


def test_sums_beyond_float64_are_infinite_as_nilearns() -> None:
    data = np.full((*SHAPE, 1), 1e308)
    signals, _, _ = img_to_signals_labels(image(data), image(atlas((1, 2))), strategy="sum")
    assert np.isinf(signals).all()


def test_files_and_lists_of_files(tmp_path: Path) -> None:
    data, labels = run(70), atlas()
    paths = []
    for k in range(data.shape[3]):
        paths.append(tmp_path / f"vol_{k:02d}.nii.gz")
        image(data[..., k]).to_filename(paths[-1])
    image(data).to_filename(tmp_path / "run.nii.gz")
    image(labels).to_filename(tmp_path / "atlas.nii.gz")
    want, _, _ = img_to_signals_labels(image(data), image(labels))
    for imgs in (
        tmp_path / "run.nii.gz",
        str(tmp_path / "vol_*.nii.gz"),
        paths,
        iter(paths),
        [image(data[..., 0]), *paths[1:]],
    ):
        got, _, _ = img_to_signals_labels(imgs, tmp_path / "atlas.nii.gz")
        np.testing.assert_array_equal(got, want)


def test_scaled_and_mixed_types(tmp_path: Path) -> None:
    data, labels = run(3, np.float64), atlas()
    scaled = nibabel.Nifti1Image(data, AFFINE)
    scaled.header.set_data_dtype(np.int16)
    scaled.to_filename(tmp_path / "scaled.nii")
    stored = nibabel.load(tmp_path / "scaled.nii")
    agree(stored, image(labels))
    # nilearn casts all to the type of the first: 0.5 would be 0
    first, second = image(np.ones(SHAPE, np.int16)), image(np.full(SHAPE, 0.5))
    signals, _, _ = img_to_signals_labels([first, second], image(labels))
    np.testing.assert_array_equal(signals, [[1, 1, 1], [0.5, 0.5, 0.5]])


def test_one_frame_and_one_region() -> None:
    agree(image(run(1)), image(atlas((0, 9))))
    agree(image(run(1)), image(np.full((*SHAPE, 1), 9, np.int16)))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = run(11)
    image(data).to_filename(tmp_path / "run.nii")
    for imgs in (image(data), image(np.ascontiguousarray(data)), tmp_path / "run.nii"):
        for strategy in ("mean", "median", "variance"):
            want, _, _ = img_to_signals_labels(imgs, image(atlas()), strategy=strategy)
            with monkeypatch.context() as small:
                small.setattr("gpuroi.nilearn.label_summaries._BLOCK_BYTES", 4096)
                got, _, _ = img_to_signals_labels(imgs, image(atlas()), strategy=strategy)
            np.testing.assert_array_equal(got, want)


def test_real_images(open_data: Path) -> None:
    bold = nibabel.load(open_data / "haxby2001_pymvpa" / "bold.nii.gz")
    labels = np.zeros(bold.shape[:3], np.int16)
    labels[5:25, 5:15], labels[5:25, 15:] = 17, 300
    head = bold.slicer[..., :20]
    head = nibabel.Nifti1Image(np.asanyarray(head.dataobj), bold.affine)
    for strategy in ("mean", "median", "maximum"):
        agree(head, nibabel.Nifti1Image(labels, bold.affine), strategy=strategy)
    path = open_data / "atlas" / "schaefer200x7MNI.nii.gz"
    regions = nibabel.load(path)
    maps = np.random.default_rng(0).standard_normal((*regions.shape[:3], 2)).astype(np.float32)
    agree(nibabel.Nifti1Image(maps, regions.affine), path)


def test_refused(tmp_path: Path) -> None:
    imgs, labels_img = image(run()), image(atlas())
    with pytest.raises(UsageError, match="'strategy' must be one of"):
        img_to_signals_labels(imgs, labels_img, strategy="foo")
    with pytest.raises(UsageError, match="'order' must be one of"):
        img_to_signals_labels(imgs, labels_img, order="K")
    with pytest.raises(UsageError, match="n_jobs == 0"):
        img_to_signals_labels(imgs, labels_img, n_jobs=0)
    with pytest.raises(TypeError, match="'keep_masked_labels'"):
        img_to_signals_labels(imgs, labels_img, keep_masked_labels=1)
    with pytest.raises(DimensionError, match="Expected dimension is 4D and you provided a 3D image"):
        img_to_signals_labels(labels_img, labels_img)
    with pytest.raises(DimensionError, match="Expected dimension is 4D and you provided a list of 4D images"):
        img_to_signals_labels([imgs, imgs], labels_img)
    with pytest.raises(DimensionError, match="Expected dimension is 3D and you provided a 4D image"):
        img_to_signals_labels(imgs, imgs)
    with pytest.raises(GridError, match="Images have incompatible shapes"):
        img_to_signals_labels(imgs, image(atlas()[:-1]))
    with pytest.raises(GridError, match="Images have different affine matrices"):
        img_to_signals_labels(imgs, image(atlas(), 2 * AFFINE))
    with pytest.raises(DataError, match="there is no region, only the background 0"):
        img_to_signals_labels(imgs, image(np.zeros(SHAPE, np.int16)))
    with pytest.warns(FutureWarning, match="return_masked_atlas"):
        assert len(img_to_signals_labels(imgs, labels_img, return_masked_atlas=False)) == 2


# ------------------------------------------------------------------------------------------- signals_to_img_labels


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_painting_is_nilearns(order: Any, layout: Any, dtype: Any) -> None:
    labels_img = image(np.array(atlas(), order=layout))
    signals = (100 * np.random.default_rng(2).standard_normal((4, 3))).astype(dtype)
    for values in (signals, signals[0]):
        got = signals_to_img_labels(values, labels_img, order=order)
        want = theirs.signals_to_img_labels(values, labels_img, order=order)
        np.testing.assert_array_equal(voxels(got), voxels(want))
        assert voxels(got).dtype == voxels(want).dtype
        assert voxels(got).flags.f_contiguous == voxels(want).flags.f_contiguous
        assert got.header == want.header


def test_there_and_back() -> None:
    signals = np.random.default_rng(3).standard_normal((6, 3))
    back, ids, _ = img_to_signals_labels(signals_to_img_labels(signals, image(atlas())), image(atlas()))
    np.testing.assert_allclose(back, signals)
    assert len(ids) == 3


def test_columns_belong_to_ids_where_a_mask_takes_regions_away() -> None:
    labels = np.zeros(SHAPE, np.int16)
    labels[:3], labels[3:6], labels[6:] = 2, 5, 9
    mask = np.ones(SHAPE, np.uint8)
    mask[3:6] = 0
    for signals in ([10.0, 30.0], [10.0, 20.0, 30.0]):
        with pytest.warns(UserWarning, match=r"removed: \{5\}"):
            painted = voxels(signals_to_img_labels(np.array(signals), image(labels), image(mask)))
        assert painted[0, 0, 0] == 10
        assert painted[4, 0, 0] == 0
        assert painted[7, 0, 0] == 30


def test_painting_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(4, 2\); expected one column for each of the 3 regions"):
        signals_to_img_labels(np.ones((4, 2)), image(atlas()))
    with pytest.raises(DataError, match="expected one column"):
        signals_to_img_labels(np.ones((1, 4, 3)), image(atlas()))
    with pytest.raises(GridError, match="incompatible shapes"):
        signals_to_img_labels(np.ones(3), image(atlas()), image(np.ones((2, 2, 2), np.uint8)))


# ------------------------------------------------------------------------------------------- label_columns


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("ids", [(0, 1, 2), (0, 5, 100), (3, 4), (0,)])
def test_columns_by_numpy(dtype: Any, ids: tuple[int, ...]) -> None:
    labels = atlas(ids, dtype)
    found, columns = label_columns(labels)
    want = np.unique(labels)
    assert found.tolist() == [i for i in want.tolist() if i]
    for column, label in enumerate(found, start=1):
        np.testing.assert_array_equal(columns == column, labels == label)
    assert ((columns == 0) == (labels == 0)).all()


def test_columns_of_ids_far_apart_and_broken_ones() -> None:
    far = np.array([0, -(2**62), 2**62, 7], np.int64)
    assert label_columns(far)[0].tolist() == [-(2**62), 7, 2**62]
    assert label_columns(np.array([0.0, 0.5, 2.0]))[1].tolist() == [0, 1, 2]
    assert label_columns(np.zeros((0, 3), np.int16))[0].size == 0


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        img_to_signals_labels(image(run()), image(atlas()))


@pytest.mark.parametrize("shape", [(6, 6), (8, 9, 7, 2, 2), (8, 9, 7, 2, 1)])
def test_volumes_of_other_axes_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "run.nii"
    image(np.ones(shape, np.float32)).to_filename(path)
    message = f"Expected dimension is 4D and you provided a {len(shape)}D image"
    if shape[-1] > 1:  # an axis of length 1 at the end of a file is not counted
        with pytest.raises(DimensionError, match=rf"run\.nii: .*{message}"):
            img_to_signals_labels(path, image(atlas()))
    with pytest.raises(DimensionError, match=f"image given as Nifti1Image: .*{message}"):
        img_to_signals_labels(image(np.ones(shape, np.float32)), image(atlas()))
