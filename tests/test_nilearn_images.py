"""mean_img, smooth_img, threshold_img: equal to nilearn's on real images, right on bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import nilearn.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Image
from nilearn.surface import PolyMesh, SurfaceImage
from nilearn_images import AFFINE, as_nifti, brain, check, check_headers, quietly, real_images, volume

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import exceptions, load_img, mean_img, smooth_img, threshold_img
from gpuroi.nilearn.niimg import image_data


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


class TestRealImages:
    """Value for value, on every image that can be read."""

    def test_there_are_many(self, open_data: Path) -> None:
        names = [name for name, _ in real_images(open_data)]
        assert sum("orient48" in name for name in names) >= 48
        for part in ("nan", "example_nifti2", ".img", ".mgz", ".BRIK", "oblique", "statmaps", "atlas"):
            assert any(part in name.replace(".HEAD", ".BRIK") for name in names), part

    def test_read_as_nibabel_does(self, open_data: Path) -> None:
        for name, img in real_images(open_data):
            data = image_data(load_img(name))
            expected = np.asanyarray(img.dataobj)
            assert data.dtype == expected.dtype.newbyteorder("=") or not name.endswith((".nii", ".gz"))
            np.testing.assert_array_equal(data, expected, err_msg=name)

    @pytest.mark.parametrize("cutoff", ["97%", 3.0])
    @pytest.mark.parametrize("two_sided", [True, False])
    def test_threshold(self, open_data: Path, cutoff: float | str, two_sided: bool) -> None:
        for name, img in real_images(open_data):
            got = quietly(threshold_img, name, cutoff, two_sided=two_sided)
            want = quietly(nilearn.image.threshold_img, as_nifti(img), cutoff, two_sided=two_sided)
            check(got, want)
            check_headers(got, want)

    def test_threshold_in_a_mask(self, open_data: Path) -> None:
        for name, img in real_images(open_data, largest=6_000_000):
            inside = np.indices(img.shape[:3]).sum(axis=0) % 3 > 0
            mask = Nifti1Image(inside.astype(np.uint8), img.affine)
            got = quietly(threshold_img, name, "80%", mask_img=mask)
            want = quietly(nilearn.image.threshold_img, as_nifti(img), "80%", mask_img=mask)
            check(got, want)

    def test_clusters(self, open_data: Path) -> None:
        for part in ("image_10426.nii.gz", "motor_lips_nan.nii.gz", "ASL.nii"):
            (path,) = open_data.rglob(part) if part != "ASL.nii" else [sorted(open_data.glob("orient48/*ASL*"))[0]]
            want = quietly(nilearn.image.threshold_img, path, 3.0, cluster_threshold=30)
            check(quietly(threshold_img, path, 3.0, cluster_threshold=30), want)

    @pytest.mark.parametrize("fwhm", [5.0, "fast", (0, 4, None)])
    def test_smooth(self, open_data: Path, fwhm: Any) -> None:
        for name, img in real_images(open_data, largest=6_000_000):
            want = quietly(nilearn.image.smooth_img, img, fwhm)
            scale = np.abs(np.asanyarray(want.dataobj)).max() + 1e-30
            check(quietly(smooth_img, name, fwhm), want, rtol=1e-5, atol=2e-6 * scale)

    def test_mean(self, open_data: Path) -> None:
        for name, img in real_images(open_data):
            want = quietly(nilearn.image.mean_img, as_nifti(img))
            check(quietly(mean_img, name), want, rtol=1e-5)

    @pytest.mark.kernels
    def test_on_cuda(self, open_data: Path, standin_cuda: None) -> None:
        some = [x for x in real_images(open_data, largest=200_000) if "orient48" not in x[0]][::8]
        some += [x for x in real_images(open_data) if "orient48" in x[0]][:1]
        assert len(some) > 3
        for name, img in some:
            want = quietly(nilearn.image.threshold_img, as_nifti(img), "90%", cluster_threshold=5)
            check(quietly(threshold_img, name, "90%", cluster_threshold=5), want)
            want = quietly(nilearn.image.smooth_img, img, 4)
            scale = np.abs(np.asanyarray(want.dataobj)).max()
            check(quietly(smooth_img, name, 4), want, rtol=1e-5, atol=2e-6 * scale)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_mean_of_one_volume_on_another_grid(rng: np.random.Generator, dtype: str) -> None:
    img = Nifti1Image(np.abs(volume(rng).get_fdata()).astype(dtype), AFFINE)
    options = {"target_affine": np.diag([3.0, 3.0, 3.0])}
    as_is = Nifti1Image(img.get_fdata(), AFFINE) if dtype == "uint8" else img  # nilearn rounds means of bytes
    check(quietly(mean_img, img, **options), quietly(nilearn.image.mean_img, as_is, **options), rtol=1e-5, atol=1e-4)


class TestThreshold:
    @pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "int16", ">i2", "uint8", "int32", "uint16"])
    @pytest.mark.parametrize("cutoff", [0, 1.5, 2, "0%", "50%", "97.5%", "100%"])
    @pytest.mark.parametrize("two_sided", [True, False])
    def test_as_nilearn(
        self, rng: np.random.Generator, device: str, dtype: str, cutoff: float | str, two_sided: bool
    ) -> None:
        if device == "cuda" and (dtype not in ("float32", ">i2") or cutoff not in (1.5, "97.5%")):
            return  # the stand-in is slow: two types, a value and a percentile
        img = Nifti1Image(np.abs(volume(rng).get_fdata()).astype(dtype), AFFINE)
        options: dict[str, Any] = {"two_sided": two_sided, "cluster_threshold": 4}
        want = quietly(nilearn.image.threshold_img, img, cutoff, **options)
        check(quietly(threshold_img, img, cutoff, **options), want)

    @given(
        cutoff=st.floats(-3, 3),
        size=st.integers(-1, 8),
        seed=st.integers(0, 99),
        whole=st.booleans(),
        shape=st.sampled_from([(5, 6, 7), (5, 6, 7, 1), (4, 5, 6, 3), (1, 1, 9)]),
    )
    def test_any_map(self, cutoff: float, size: int, seed: int, whole: bool, shape: tuple[int, ...]) -> None:
        data = np.random.default_rng(seed).normal(size=shape)
        img = Nifti1Image((3 * data).astype(np.int16) if whole else data, AFFINE)
        two_sided = cutoff >= 0 and seed % 2 == 0
        want = quietly(nilearn.image.threshold_img, img, cutoff, size, two_sided)
        check(quietly(threshold_img, img, cutoff, size, two_sided), want)

    def test_labels_are_kept_exactly(self) -> None:
        ids = np.zeros((4, 4, 4), np.int32)
        ids[0], ids[1], ids[2] = 70_000, 128, 2**24 + 1
        kept = np.asanyarray(threshold_img(Nifti1Image(ids, AFFINE), 129).dataobj)
        assert kept.dtype == np.int32
        np.testing.assert_array_equal(np.unique(kept), [0, 70_000, 2**24 + 1])

    def test_integers_just_above_their_own_percentile(self) -> None:
        data = np.full((4, 4, 4), 30_000, np.int16)  # float32 cannot tell 30000 from 30000.00001
        want = nilearn.image.threshold_img(Nifti1Image(data, AFFINE), "50%")
        got = threshold_img(Nifti1Image(data, AFFINE), "50%")
        check(got, want)
        assert not np.asanyarray(got.dataobj).any()

    def test_the_input_stays(self, rng: np.random.Generator) -> None:
        img = volume(rng)
        before = img.get_fdata().copy()
        np.asanyarray(img.dataobj)[0, 0, 0] = np.nan
        with pytest.warns(UserWarning, match="Non-finite"):
            threshold_img(img, 1.0)
        assert np.isnan(np.asanyarray(img.dataobj)[0, 0, 0])
        np.testing.assert_array_equal(img.get_fdata(), before)  # the cache of the caller too

    def test_without_copy_it_is_written_to(self, rng: np.random.Generator) -> None:
        img = volume(rng)
        result = threshold_img(img, 1e2, copy=False)
        assert np.shares_memory(np.asanyarray(result.dataobj), np.asanyarray(img.dataobj))

    def test_files_are_not_loaded_into_the_image(self, rng: np.random.Generator, tmp_path: Path) -> None:
        nibabel.save(volume(rng), tmp_path / "map.nii.gz")
        img = nibabel.load(tmp_path / "map.nii.gz")
        threshold_img(img, 1.0, copy=False)
        assert not img.in_memory

    def test_out_of_reach_is_said(self, rng: np.random.Generator) -> None:
        img = volume(rng)
        with pytest.warns(UserWarning, match="must not exceed"):
            assert not np.asanyarray(threshold_img(img, 1e6).dataobj).any()
        with pytest.warns(UserWarning, match="must not be less than"):
            threshold_img(img, -1e6, two_sided=False)
        with pytest.warns(UserWarning, match=r"exceed 128\. But"):
            threshold_img(Nifti1Image(np.full((2, 2, 2), -128, np.int8), AFFINE), 129)

    def test_nothing_of_the_side_asked_for(self) -> None:
        img = Nifti1Image(np.full((3, 3, 3), -2.0), AFFINE)  # nilearn fails on an empty array
        with pytest.warns(UserWarning, match="must not exceed"):
            assert not np.asanyarray(threshold_img(img, 1, two_sided=False).dataobj).any()
        assert not np.asanyarray(threshold_img(img, "50%", two_sided=False).dataobj).any()

    def test_mask_on_another_grid(self, rng: np.random.Generator) -> None:
        img = volume(rng)
        coarse = Nifti1Image((rng.random((6, 6, 5)) > 0.4).astype(np.int8), AFFINE @ np.diag([2, 2, 2, 1]))
        want = quietly(nilearn.image.threshold_img, img, 1.0, mask_img=coarse)
        check(quietly(threshold_img, img, 1.0, mask_img=coarse), want)

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"threshold": -1}, ValueError, "should not be a negative"),
            ({"threshold": "-5%"}, ValueError, "should not be a negative"),
            ({"threshold": "101%"}, ValueError, "outside 0 to 100"),
            ({"threshold": "97"}, ValueError, "followed by the percent"),
            ({"threshold": float("nan")}, ValueError, "NaN"),
            ({"threshold": None}, TypeError, "either a number or a string"),
            ({"threshold": [1]}, TypeError, "must be of type"),
            ({"threshold": 1, "cluster_threshold": 2.5}, TypeError, "must be of type"),
            ({"threshold": 1, "copy_header": "no"}, TypeError, "must be of type"),
            ({"threshold": 1, "mask_img": 3}, TypeError, "must be of type"),
        ],
    )
    def test_bad_arguments(
        self, rng: np.random.Generator, arguments: dict[str, Any], error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            threshold_img(volume(rng), **arguments)

    @pytest.mark.parametrize(
        ("values", "match"), [([0], "empty"), ([1, 2], "Background"), ([0, 1, 2], "not made of 2 values")]
    )
    def test_bad_masks_are_named(self, rng: np.random.Generator, tmp_path: Path, values: list[int], match: str) -> None:
        data = np.resize(np.array(values, np.int16), (12, 11, 10))
        nibabel.save(Nifti1Image(data, AFFINE), tmp_path / "mask.nii")
        with pytest.raises(DataError, match=rf"{match}.*mask\.nii"):
            threshold_img(volume(rng), 1.0, mask_img=tmp_path / "mask.nii")


class TestSmooth:
    @pytest.mark.parametrize("fwhm", [None, 4, 6.5, [3, 0, 5], (None, 2, 2), np.array([4.0]), "fast"])
    @pytest.mark.parametrize("dtype", ["float32", "float64", ">f8", "int16", "uint8", "int64"])
    def test_as_nilearn(self, rng: np.random.Generator, device: str, fwhm: Any, dtype: str) -> None:
        if device == "cuda" and dtype not in ("float32", "uint8"):
            return
        data = np.abs(volume(rng, (9, 8, 7, 2)).get_fdata()).astype(dtype)
        img = Nifti1Image(data, AFFINE, dtype=dtype)
        want = quietly(nilearn.image.smooth_img, img, fwhm)
        check(smooth_img(img, fwhm), want, rtol=1e-5, atol=1e-4)

    def test_unsigned_integers_keep_their_mass(self) -> None:
        data = np.zeros((9, 9, 9), np.uint8)
        data[4, 4, 4] = 200
        assert smooth_img(Nifti1Image(data, np.eye(4)), 4).get_fdata().sum() == pytest.approx(200, rel=1e-3)

    def test_the_input_stays(self, rng: np.random.Generator) -> None:
        img = volume(rng)
        data = np.asanyarray(img.dataobj)
        data[3, 3, 3] = np.inf
        for fwhm in (None, 4, "fast"):
            result = smooth_img(img, fwhm)
            assert np.isinf(data[3, 3, 3])
            assert np.isfinite(result.get_fdata()).all()
            assert not np.shares_memory(np.asanyarray(result.dataobj), data)

    def test_zero_is_said(self, rng: np.random.Generator) -> None:
        img = volume(rng)
        with pytest.warns(UserWarning, match=r"specified as 0\.0\. Setting it to None"):
            check(smooth_img(img, 0.0), img)

    def test_lists_and_iterators(self, rng: np.random.Generator) -> None:
        images = [volume(rng), volume(rng, (5, 6, 7))]
        for given_images in (images, tuple(images), iter(images)):
            results = smooth_img(given_images, 4)
            assert isinstance(results, list)
            for result, img in zip(results, images, strict=True):
                check(result, smooth_img(img, 4))

    @pytest.mark.parametrize("fwhm", [-1, float("nan"), float("inf"), (1, 2), "slow"])
    def test_bad_widths(self, rng: np.random.Generator, fwhm: Any) -> None:
        with pytest.raises(UsageError, match="fwhm"):
            smooth_img(volume(rng), fwhm)


class TestMean:
    def test_as_nilearn(self, rng: np.random.Generator, tmp_path: Path) -> None:
        images = [volume(rng, (5, 6, 7, 4)), volume(rng, (5, 6, 7)), volume(rng, (5, 6, 7, 9))]
        paths = []
        for i, img in enumerate(images):
            paths.append(str(tmp_path / f"{i}.nii.gz"))
            nibabel.save(img, paths[-1])
        want = quietly(nilearn.image.mean_img, images)
        for given_images in (images, iter(images), paths, str(tmp_path / "0.nii.gz")):
            expected = want if not isinstance(given_images, str) else nilearn.image.mean_img(given_images)
            check(mean_img(given_images, n_jobs=2), expected, rtol=2e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", ["int16", "uint8", ">i4", "float64"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_exactly_as_nilearn(self, rng: np.random.Generator, dtype: str, order: Any) -> None:
        data = np.asarray(np.abs(volume(rng, (5, 6, 7, 20)).get_fdata()).astype(dtype), order=order)
        check(mean_img(Nifti1Image(data, AFFINE)), nilearn.image.mean_img(Nifti1Image(data, AFFINE)))

    def test_a_large_mean_keeps_its_digits(self, rng: np.random.Generator) -> None:
        data = np.asfortranarray((1e6 + rng.standard_normal((4, 4, 4, 500))).astype(np.float32))
        exact = data.astype(np.float64).mean(axis=-1)
        got = mean_img(Nifti1Image(data, AFFINE)).get_fdata()
        assert np.abs(got - exact).max() <= np.spacing(np.float32(1e6)) / 2

    def test_small_integers_do_not_wrap(self) -> None:
        img = Nifti1Image(np.full((2, 2, 2), 200, np.uint8), AFFINE)  # 200 + 200 is 144 in nilearn
        np.testing.assert_array_equal(mean_img([img, img]).get_fdata(), 200.0)

    def test_brought_to_a_grid(self, rng: np.random.Generator) -> None:
        images = [volume(rng, (8, 9, 7, 3)), volume(rng, (8, 9, 7))]
        for target in ({"target_affine": np.diag([3, 3, 3])}, {"target_affine": AFFINE, "target_shape": (5, 4, 6)}):
            want = quietly(nilearn.image.mean_img, images, **target)
            check(quietly(mean_img, images, **target), want, rtol=1e-4, atol=1e-4)

    def test_bad_arguments(self, rng: np.random.Generator) -> None:
        with pytest.raises(TypeError, match="must be of type"):
            mean_img(volume(rng), n_jobs="2")
        with pytest.raises(ValueError, match="n_jobs == 0"):
            mean_img(volume(rng), n_jobs=0)
        with pytest.raises(TypeError, match="Cannot average empty"):
            mean_img([])
        with pytest.raises(ValueError, match="target_affine should be specified"):
            mean_img(volume(rng), target_shape=(2, 2, 2))
        with pytest.raises(DataError, match="5 dimensions were given"):
            mean_img(Nifti1Image(np.zeros((2, 2, 2, 2, 2), np.float32), AFFINE))


class TestSurfaces:
    def test_smooth(self, rng: np.random.Generator) -> None:
        for img in (brain(rng), brain(rng, 3)):
            img.data.parts["left"][2] = np.nan
            want, got = quietly(nilearn.image.smooth_img, img, 3.0), smooth_img(img, 3.0)
            np.testing.assert_allclose(got.data.parts["left"], want.data.parts["left"], rtol=1e-12)
            # The vertex that is alone keeps its value; nilearn halves it at every step.
            np.testing.assert_array_equal(got.data.parts["right"][-1], img.data.parts["right"][-1])
            np.testing.assert_allclose(got.data.parts["right"][:-1], want.data.parts["right"][:-1], rtol=1e-12)
        assert [len(one.shape) for one in smooth_img([brain(rng), brain(rng, 2)], None)] == [1, 2]
        with pytest.raises(TypeError, match="must be a scalar"):
            smooth_img(brain(rng), [3, 3, 3])
        with pytest.raises(UsageError, match="fwhm"):
            smooth_img(brain(rng), -3)

    def test_threshold(self, rng: np.random.Generator, device: str) -> None:
        img, mask = brain(rng), brain(rng)
        for name in mask.data.parts:
            mask.data.parts[name] = (mask.data.parts[name] > -1).astype(np.int8)
        for cutoff, size, two_sided, inside in [
            (0.5, 0, True, None),
            (0.5, 4, True, None),
            ("60%", 3, False, mask),
            (-0.2, 2, False, mask),
        ]:
            want = nilearn.image.threshold_img(img, cutoff, size, two_sided, inside)
            got = threshold_img(img, cutoff, size, two_sided, inside)
            for name in want.data.parts:
                np.testing.assert_array_equal(got.data.parts[name], want.data.parts[name])

    def test_threshold_of_several_maps(self, rng: np.random.Generator) -> None:
        img = brain(rng, 3)
        got = threshold_img(img, 0.5, cluster_threshold=4)
        for i in range(3):
            one = SurfaceImage(img.mesh, {name: values[:, i] for name, values in img.data.parts.items()})
            want = nilearn.image.threshold_img(one, 0.5, cluster_threshold=4)
            for name in want.data.parts:
                np.testing.assert_array_equal(got.data.parts[name][:, i], want.data.parts[name])

    def test_meshes_must_fit(self, rng: np.random.Generator) -> None:
        img, other = brain(rng), brain(rng)
        other.mesh.parts["left"].coordinates[0] += 1.0
        with pytest.warns(RuntimeWarning, match="Meshes are not identical"):
            mean_img([img, other])
        short = SurfaceImage(PolyMesh(left=img.mesh.parts["left"]), {"left": img.data.parts["left"]})
        with pytest.raises(exceptions.MeshDimensionError, match="same keys"):
            mean_img([img, short])

    def test_mean(self, rng: np.random.Generator) -> None:
        images = [brain(rng, 3), brain(rng, 2)]
        want, got = nilearn.image.mean_img(images), mean_img(images)
        for name in want.data.parts:
            # nilearn joins the means of the images in float32.
            np.testing.assert_allclose(got.data.parts[name], want.data.parts[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, np.int64, ">f4"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_means_add_in_the_order_of_the_volumes(
    dtype: Any, n: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUROI_NUM_THREADS", threads)
    monkeypatch.setattr("gpuroi.nilearn.mean_volume._WORTH_A_THREAD", 100)
    whole = (100 * np.random.default_rng(n).random((17, 19, 16, n + 1))).astype(dtype)
    whole[2, 3, 4] = 0
    for data in (whole[..., :n].copy("F"), whole[..., :n].copy("C"), whole[..., :n], whole[1:-1, 2:, ::2, :n]):
        total = np.zeros(data.shape[:3])
        for i in range(n):
            total += data[..., i]
        want = (total / n).astype(np.float32 if np.dtype(dtype).newbyteorder("=") == np.float32 else np.float64)
        got = np.asanyarray(mean_img(Nifti1Image(data, AFFINE, dtype=np.float32), copy_header=True).dataobj)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
