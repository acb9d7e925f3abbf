"""Images on other grids: as SciPy interpolates, as nilearn decides where to, and no label lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nilearn.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Image
from scipy import ndimage

from gpuroi.errors import DataError, UsageError
from gpuroi.images import resample_to, resample_volume
from gpuroi.nilearn.exceptions import BoundingBoxError
from gpuroi.nilearn.resampling import resample_img, resample_to_img, target_grid

OBLIQUE = np.array([[1.9, 0.3, 0.0, -20], [-0.3, 1.9, 0.2, -30], [0.0, -0.2, 2.4, -10], [0, 0, 0, 1]])
TARGETS: dict[str, dict[str, Any]] = {
    "coarser": {"target_affine": np.diag([9.0, 8.0, 7.0])},
    "turned": {"target_affine": 8 * np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])},
    "oblique": {"target_affine": 4 * OBLIQUE[:3, :3]},
    "shifted": {"target_affine": np.diag([-7.0, 7.0, 7.0, 1.0]) + np.eye(4, k=3) * 11},
    "all": {"target_affine": 4 * OBLIQUE - np.eye(4) * [0, 0, 0, 3], "target_shape": (9, 10, 11)},
}


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def blob(shape: tuple[int, ...] = (9, 10, 8), dtype: str = "float64") -> np.ndarray:
    noise = np.random.default_rng(3).standard_normal(shape)
    return (50 * ndimage.gaussian_filter(noise, (1, 1, 1, *(0,) * (len(shape) - 3)))).astype(dtype)


def by_map_coordinates(data: np.ndarray, affine: np.ndarray, target: np.ndarray, shape: Any, order: int) -> np.ndarray:
    """The definition: each voxel of the target looks up its place in the source."""
    ijk = np.indices(shape).reshape(3, -1)
    places = np.linalg.inv(affine) @ target @ np.vstack([ijk, np.ones(ijk.shape[1])])
    return ndimage.map_coordinates(data, places[:3], order=order).reshape(shape)


class TestVolume:
    @pytest.mark.parametrize(("interpolation", "order"), [("nearest", 0), ("linear", 1), ("continuous", 3)])
    def test_against_its_definition(self, interpolation: str, order: int) -> None:
        data, target = blob(), OBLIQUE @ np.diag([1.3, 0.8, 1.1, 1]) + 0.137 * np.eye(4, k=3)
        got = resample_volume(data, OBLIQUE, target_affine=target, target_shape=(7, 11, 9), interpolation=interpolation)
        want = by_map_coordinates(data, OBLIQUE, target, (7, 11, 9), order)
        np.testing.assert_allclose(got, want, atol=1e-10)

    @given(
        shape=st.tuples(*[st.integers(1, 6)] * 3),
        interpolation=st.sampled_from(["nearest", "linear", "continuous"]),
        dtype=st.sampled_from(["float32", ">f8", "int16", "uint8"]),
        frames=st.integers(0, 2),
    )
    def test_its_own_grid_changes_nothing(
        self, shape: tuple[int, int, int], interpolation: str, dtype: str, frames: int
    ) -> None:
        data = blob((*shape, *([frames] if frames else []))).astype(dtype)
        got = resample_volume(data, OBLIQUE, target_affine=OBLIQUE, target_shape=shape, interpolation=interpolation)
        np.testing.assert_allclose(got, data.astype(np.float64), atol=1e-4)
        assert got.dtype.isnative

    @pytest.mark.parametrize("dtype", ["int8", "uint8", ">i2", "uint16", "int32", "int64", "bool"])
    def test_integers(self, dtype: str) -> None:
        data = np.abs(blob()).astype(dtype)
        half = {"target_affine": np.diag([0.5, 1, 1, 1]), "target_shape": (17, 10, 8)}
        nearest = resample_volume(data, np.eye(4), **half, interpolation="nearest")
        assert nearest.dtype == np.dtype(dtype).newbyteorder("=")
        assert set(np.unique(nearest)) <= set(np.unique(data))
        linear = resample_volume(data, np.eye(4), **half, interpolation="linear")
        assert linear.dtype == (np.float64 if dtype == "int64" else np.float32)
        np.testing.assert_allclose(linear[1:-1:2], (data[:-1].astype(float) + data[1:]) / 2, rtol=1e-6)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_nan_stays_where_it_is(self, dtype: str) -> None:
        data = blob(dtype=dtype)
        data[:3], data[5, 5, 5] = np.nan, np.inf
        before = data.copy()
        fine = np.diag([0.6, 0.7, 0.8, 1])
        got = resample_volume(data, np.eye(4), target_affine=fine, target_shape=(12, 12, 9))
        want = quietly(
            nilearn.image.resample_img, Nifti1Image(data, np.eye(4)), fine, (12, 12, 9), clip=False
        ).get_fdata()
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(data, before)

    def test_clipping_and_filling(self) -> None:
        data = np.full((4, 4, 4), 5.0)
        data[2:] = 9.0
        fine = np.diag([0.3, 1, 1, 1])
        target = {"target_affine": fine, "target_shape": (16, 4, 4)}
        free = resample_volume(data, np.eye(4), **target, fill_value=-7.0)
        clipped = resample_volume(data, np.eye(4), **target, clip=True)
        assert free.max() > 9.0
        assert free.min() == -7.0
        assert clipped.max() == 9.0
        assert clipped.min() == 0.0

    @pytest.mark.parametrize(
        ("change", "error", "match"),
        [
            ({"interpolation": "cubic"}, UsageError, "cubic"),
            ({"target_shape": (3, 3)}, UsageError, "three axes"),
            ({"target_shape": (3, 0, 3)}, UsageError, "three axes"),
            ({"target_affine": np.zeros((4, 4))}, DataError, "cannot be inverted"),
            ({"target_affine": np.eye(3)}, DataError, r"\(3, 3\)"),
            ({"data": np.zeros((3, 3))}, DataError, r"\(3, 3\)"),
        ],
    )
    def test_bad_arguments(self, change: dict[str, Any], error: type[Exception], match: str) -> None:
        given_arguments: dict[str, Any] = {
            "data": blob(),
            "affine": np.eye(4),
            "target_affine": np.eye(4),
            "target_shape": (3, 3, 3),
            **change,
        }
        with pytest.raises(error, match=match):
            resample_volume(**given_arguments)


class TestTo:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", ">i4"])
    def test_labels_take_the_nearest(self, dtype: str) -> None:
        ids = np.zeros((5, 6, 7), dtype)
        ids[1:4, 2:5, 2:5] = 70_000 if np.dtype(dtype).itemsize == 4 else 100
        atlas = Nifti1Image(ids, np.diag([3.0, 3, 3, 1]))
        got = resample_to(atlas, Nifti1Image(np.zeros((14, 17, 20)), np.diag([1.0, 1, 1, 1])))
        data = np.asanyarray(got.dataobj)
        assert got.get_data_dtype() == np.dtype(dtype).newbyteorder("=")
        assert set(np.unique(data)) == set(np.unique(ids))
        want = by_map_coordinates(ids, atlas.affine, np.eye(4), data.shape, 0)
        np.testing.assert_array_equal(data, want)

    def test_wide_labels_are_not_narrowed(self, tmp_path: Path) -> None:
        ids = np.full((2, 2, 2), 2**40, np.int64)
        atlas = Nifti1Image(ids, np.eye(4), dtype="int64")
        got = resample_to(atlas, atlas)
        nibabel.save(got, tmp_path / "wide.nii")
        np.testing.assert_array_equal(np.asanyarray(nibabel.load(tmp_path / "wide.nii").dataobj), ids)

    def test_maps_are_interpolated(self, tmp_path: Path) -> None:
        img = Nifti1Image(blob((9, 10, 8, 2), "float32"), np.diag([2.0, 2, 2, 1]))
        like = Nifti1Image(np.zeros((6, 7, 5), np.uint8), np.diag([3.0, 3, 3, 1]))
        nibabel.save(img, tmp_path / "map.nii.gz")
        want = nilearn.image.resample_to_img(img, like).get_fdata()
        for source in (img, tmp_path / "map.nii.gz"):
            got = resample_to(source, like)
            assert got.get_data_dtype() == np.float32
            np.testing.assert_array_equal(got.affine, like.affine)
            np.testing.assert_allclose(got.get_fdata(), want, rtol=1e-5, atol=1e-4)
        assert set(np.unique(resample_to(img, like, interpolation="nearest").get_fdata())) <= set(
            np.unique(img.get_fdata())
        ) | {0.0}
        with pytest.raises(UsageError, match="spline"):
            resample_to(img, like, interpolation="spline")

    def test_scaled_integers_are_no_labels(self, open_data: Path) -> None:
        scaled = next(iter(sorted((open_data / "orient48").glob("t1.nii.gz"))))
        like = Nifti1Image(np.zeros((20, 20, 20)), nibabel.load(scaled).affine @ np.diag([3, 3, 3, 1]))
        assert resample_to(scaled, like).get_data_dtype() == np.float64


class TestAsNilearn:
    def real(self, folder: Path) -> list[Path]:
        turned = sorted((folder / "orient48").glob("*"))[::6]
        others = [
            "oblique_dcmqa/ax_asc_36sl_9.nii",
            "ugly_nibabel/functional.nii",
            "ugly_nibabel/resampled_anat_moved.nii",
            "ugly_nibabel/anatomical.nii",
            "ugly_nibabel/example_nifti2.nii.gz",
            "statmaps/motor_lips_nan.nii.gz",
        ]
        return turned + [folder / one for one in others]

    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("interpolation", ["nearest", "linear", "continuous"])
    def test_real_images(self, open_data: Path, target: str, interpolation: str) -> None:
        compared = 0
        for path in self.real(open_data):
            img = nibabel.load(path)
            data = np.asanyarray(img.dataobj)
            if data.ndim == 4:
                img = Nifti1Image(data[..., :2], img.affine, img.header)
            if interpolation == "linear" and data.dtype.kind in "iu":
                img = Nifti1Image(data.astype(np.float32), img.affine)  # nilearn truncates
            options = {**TARGETS[target], "interpolation": interpolation}
            try:
                want = quietly(nilearn.image.resample_img, img, **options)
            except ValueError as error:
                with pytest.raises(BoundingBoxError, match=str(error)[:40]):
                    quietly(resample_img, img, **options)
                continue
            got = quietly(resample_img, img, **options)
            np.testing.assert_array_equal(got.affine, want.affine)
            expected = want.get_fdata()
            scale = np.nanmax(np.abs(expected)) + 1e-6
            np.testing.assert_allclose(got.get_fdata(), expected, rtol=1e-5, atol=1e-6 * scale, err_msg=str(path))
            assert np.asanyarray(got.dataobj).dtype == np.asanyarray(want.dataobj).dtype.newbyteorder("=")
            compared += 1
        assert compared > 8

    def test_to_the_grid_of_an_image(self) -> None:
        img = Nifti1Image(blob(), np.diag([2.0, 2, 2, 1]))
        like = Nifti1Image(np.zeros((5, 6, 7, 2)), OBLIQUE)
        for options in ({}, {"interpolation": "nearest"}, {"clip": True}, {"fill_value": 3.5}, {"order": "C"}):
            want = nilearn.image.resample_to_img(img, like, **options)
            got = resample_to_img(img, like, **options)
            np.testing.assert_allclose(got.get_fdata(), want.get_fdata(), rtol=1e-7, atol=1e-9)
            assert np.asanyarray(got.dataobj).flags.c_contiguous == (options.get("order") == "C")

    def test_nothing_to_do(self) -> None:
        img = Nifti1Image(blob(), OBLIQUE)
        for target in ({}, {"target_affine": OBLIQUE, "target_shape": img.shape}):
            assert resample_img(img, **target, copy=False) is img
            copied = resample_img(img, **target)
            np.testing.assert_array_equal(copied.get_fdata(), img.get_fdata())
            assert not np.shares_memory(np.asanyarray(copied.dataobj), np.asanyarray(img.dataobj))

    @given(
        rotation=st.floats(-3, 3),
        zooms=st.tuples(*[st.floats(0.5, 4)] * 3),
        with_origin=st.booleans(),
    )
    def test_the_grid_holds_the_image(
        self, rotation: float, zooms: tuple[float, float, float], with_origin: bool
    ) -> None:
        turn = np.array([[np.cos(rotation), -np.sin(rotation), 0], [np.sin(rotation), np.cos(rotation), 0], [0, 0, 1]])
        target = turn @ np.diag(zooms)
        img = Nifti1Image(np.ones((4, 5, 3)), OBLIQUE)
        if with_origin:
            target = np.block([[target, np.full((3, 1), -1000.0)], [np.zeros((1, 3)), np.ones((1, 1))]])
            target[:3, 3] = target[:3, :3] @ np.full(3, -100.0)
        affine, shape = target_grid(img.shape, img.affine, target)
        want = quietly(nilearn.image.resample_img, img, target, interpolation="nearest")
        np.testing.assert_array_equal(affine, want.affine)
        assert shape == want.shape

    def test_warnings(self) -> None:
        integers = Nifti1Image(np.abs(blob()).astype(np.uint8), np.eye(4))
        with pytest.warns(UserWarning, match="Casting data from uint8 to float32"):
            resample_img(integers, np.diag([2.0, 2, 2]))
        with pytest.warns(UserWarning, match="Resampling binary images"):
            resample_img(Nifti1Image((blob() > 0).astype(np.float32), np.eye(4)), np.diag([2.0, 2, 2]))
        holes = blob()
        holes[0] = np.nan
        with pytest.warns(RuntimeWarning, match="NaNs or infinite values"):
            resample_img(Nifti1Image(holes, np.eye(4)), np.diag([2.0, 2, 2]))
        without = Nifti1Image(blob(), np.eye(4))
        without.set_sform(None)
        with pytest.warns(UserWarning, match="no sform"):
            resample_img(without, np.diag([2.0, 2, 2]))

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"target_shape": (2, 2, 2)}, ValueError, "target_affine should be specified"),
            ({"target_affine": np.eye(3), "target_shape": (2, 2, 2)}, ValueError, "anchor vector"),
            ({"target_affine": np.eye(4), "target_shape": (2, 2)}, ValueError, "length 3"),
            ({"target_affine": np.ones((1, 3))}, ValueError, r"\(1, 3\)"),
            ({"target_affine": np.eye(4), "interpolation": "cubic"}, ValueError, "must be one of"),
            ({"target_affine": np.eye(4), "copy_header": 1}, TypeError, "must be of type"),
            ({"target_affine": np.eye(4) + np.eye(4, k=3) * 99}, BoundingBoxError, "does not contain any"),
        ],
    )
    def test_bad_arguments(self, options: dict[str, Any], error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            resample_img(Nifti1Image(blob(), np.diag([2.0, 2, 2, 1])), **options)
