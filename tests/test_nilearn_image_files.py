"""What counts as an image, and images made like others: load_img, new_img_like, and the checks behind all functions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import nilearn
import nilearn.image
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nilearn.exceptions import DimensionError
from nilearn_images import AFFINE, check, check_headers, volume

from gpuroi.errors import DataError, GridError
from gpuroi.nilearn import exceptions, load_img, new_img_like, smooth_img, threshold_img
from gpuroi.nilearn.niimg import as_list, check_niimg, check_niimg_3d, check_niimg_4d, finite_data, image_data

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


class TestLoad:
    def test_lists_patterns_and_iterators(self, rng: np.random.Generator, tmp_path: Path) -> None:
        images = [volume(rng) for _ in range(3)]
        for i, img in enumerate(images):
            nibabel.save(img, tmp_path / f"{i}.nii.gz")
        want = nilearn.image.load_img(images)
        pattern = tmp_path / "*.nii.gz"
        for given_images in (images, tuple(images), iter(images), pattern, str(pattern), sorted(tmp_path.glob("*"))):
            check(load_img(given_images), want)

    def test_an_image_is_returned_as_it_is(self, rng: np.random.Generator) -> None:
        img = volume(rng)
        assert load_img(img) is img
        assert load_img(img, dtype=np.float32) is img

    @pytest.mark.parametrize("dtype", ["auto", "float64", np.int32])
    def test_types(self, rng: np.random.Generator, dtype: Any) -> None:
        img = volume(rng, dtype="int16")
        check(load_img(img, dtype=dtype), nilearn.image.load_img(img, dtype=dtype))

    def test_home_and_one_frame(self, rng: np.random.Generator, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(here))
        img = volume(rng, (4, 5, 6, 1))
        nibabel.save(img, here / "one.nii")
        check(check_niimg_3d("~/one.nii"), nilearn.image.index_img(img, 0))
        assert check_niimg("~/one.nii", atleast_4d=True).shape == (4, 5, 6, 1)
        assert check_niimg_4d([img, img]).shape == (4, 5, 6, 2)

    def test_images_of_other_packages(self, rng: np.random.Generator) -> None:
        class Other:
            affine, shape = AFFINE, (3, 4, 5)

            def get_fdata(self) -> Any:
                return np.ones(self.shape)

        other = Other()
        assert check_niimg_3d(other) is other
        np.testing.assert_array_equal(image_data(other), np.ones((3, 4, 5)))
        assert as_list(other) is other

    def test_literal_names(self, rng: np.random.Generator, tmp_path: Path) -> None:
        nibabel.save(volume(rng), tmp_path / "map[1].nii")
        assert load_img(tmp_path / "map[1].nii", wildcards=False).shape == (12, 11, 10)
        with pytest.raises(ValueError, match="No files matching"):
            load_img(tmp_path / "map[1].nii")

    def test_errors_name_the_image(self, rng: np.random.Generator, tmp_path: Path) -> None:
        nibabel.save(volume(rng, (4, 5, 6, 3)), tmp_path / "bold.nii.gz")
        nibabel.save(volume(rng, (4, 5, 7, 3)), tmp_path / "wide.nii.gz")
        with pytest.raises(DataError, match=r"File not found: '.*nowhere\.nii'"):
            load_img(tmp_path / "nowhere.nii")
        with pytest.raises(DimensionError, match=r"bold\.nii\.gz: .*Expected dimension is 3D and you provided a 4D"):
            check_niimg_3d(tmp_path / "bold.nii.gz")
        with pytest.raises(DimensionError, match="Expected dimension is 4D and you provided a list of 4D images"):
            check_niimg_4d([tmp_path / "bold.nii.gz"])
        with pytest.raises(GridError, match=r"image #1 \(.*wide\.nii\.gz\) is different"):
            load_img([tmp_path / "bold.nii.gz", tmp_path / "wide.nii.gz"])
        with pytest.raises(TypeError, match="input should be a NiftiLike object"):
            load_img(np.zeros((3, 3, 3)))
        with pytest.raises(TypeError, match="Cannot concatenate empty objects"):
            load_img([])

    def test_patterns_can_be_switched_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nilearn, "EXPAND_PATH_WILDCARDS", False)
        with pytest.raises(DataError, match=r"File not found: '.*\*\.nii'"):
            load_img(tmp_path / "*.nii")

    @pytest.mark.parametrize(("dtype", "what"), [("complex64", "complex numbers"), ("RGB", "RGB colours")])
    def test_voxels_that_are_no_numbers(self, dtype: str, what: str) -> None:
        rgb = [("R", "u1"), ("G", "u1"), ("B", "u1")]
        img = Nifti1Image(np.zeros((3, 3, 3), rgb if dtype == "RGB" else dtype), AFFINE)
        for function in (threshold_img, smooth_img):
            with pytest.raises(DataError, match=what):
                function(img, 3)

    def test_a_shortened_file_is_named(self, rng: np.random.Generator, tmp_path: Path) -> None:
        path = tmp_path / "short.nii.gz"
        nibabel.save(volume(rng, (20, 20, 20)), path)
        path.write_bytes(path.read_bytes()[:-9000])
        with pytest.raises(DataError, match=r"short\.nii\.gz"):
            threshold_img(path, 1.0)

    @pytest.mark.parametrize("copy", [True, False])
    def test_finite_data(self, rng: np.random.Generator, copy: bool) -> None:
        img = volume(rng, dtype=">f4")
        data = np.asanyarray(img.dataobj)
        data[0, 0, 0], data[1, 1, 1] = np.nan, -np.inf
        with pytest.warns(UserWarning, match="Non-finite values detected"):
            finite = finite_data(img, copy=copy)
        assert finite.dtype == np.dtype("float32")
        assert finite[0, 0, 0] == finite[1, 1, 1] == 0
        assert np.isnan(data[0, 0, 0])
        assert np.isnan(finite_data(img, ensure_finite=False)[0, 0, 0])


class TestNewImage:
    @pytest.mark.parametrize("copy_header", [True, False])
    def test_as_nilearn(self, rng: np.random.Generator, tmp_path: Path, copy_header: bool) -> None:
        img = volume(rng, dtype="int16")
        img.header["cal_max"], img.header["descrip"] = 7, b"a map"
        nibabel.save(img, tmp_path / "map.nii")
        for reference in (img, [img], tmp_path / "map.nii", [str(tmp_path / "map.nii")]):
            for data in (rng.random((4, 5, 6)), np.ones((4, 5, 6), bool), np.ones((4, 5, 6), np.uint8)):
                want = nilearn.image.new_img_like(reference, data, copy_header=copy_header)
                got = new_img_like(reference, data, copy_header=copy_header)
                check(got, want)
                check_headers(got, want)
                assert type(got) is type(want)

    def test_wide_integers(self, rng: np.random.Generator) -> None:
        img = volume(rng)
        with pytest.warns(UserWarning, match="contains 64-bit ints"):
            assert new_img_like(img, np.ones((2, 2, 2), np.int64)).dataobj.dtype == np.int32
        with pytest.warns(UserWarning, match="64-bit ints.*too large"):
            assert new_img_like(img, np.full((2, 2, 2), 2**40, np.int64)).dataobj.dtype == np.int64

    def test_big_endian_headers_are_written(self, rng: np.random.Generator, tmp_path: Path) -> None:
        img = Nifti1Image(rng.random((4, 5, 6)).astype(">f4"), AFFINE, Nifti1Header(endianness=">"))
        result = threshold_img(img, 0.5)
        nibabel.save(result, tmp_path / "map.nii")
        np.testing.assert_array_equal(nibabel.load(tmp_path / "map.nii").get_fdata(), result.get_fdata())

    @pytest.mark.parametrize("reference", [3, [], "array"])
    def test_no_image(self, reference: Any) -> None:
        with pytest.raises(TypeError, match="should be a niimg"):
            new_img_like(np.zeros(3) if reference == "array" else reference, np.zeros((2, 2, 2)))


class TestExceptions:
    def test_ours_have_the_words_of_nilearn(self) -> None:
        import nilearn.exceptions

        for name in ("AllVolumesRemovedError", "MaskWarning", "MeshDimensionError", "NotImplementedWarning"):
            theirs, ours = getattr(nilearn.exceptions, name), exceptions._OURS[name]
            assert ours.__bases__ == theirs.__bases__
            assert getattr(exceptions, name) is theirs
        theirs, ours = DimensionError(3, 4), exceptions._naming(exceptions._OURS["DimensionError"])(3, 4, "x.nii")
        for _ in range(3):
            assert str(theirs).split(" See")[0] == str(ours).removeprefix("x.nii: ")
            theirs.increment_stack_counter()
            ours.increment_stack_counter()
        assert (
            str(exceptions._OURS["AllVolumesRemovedError"]()).strip()[:40]
            == str(nilearn.exceptions.AllVolumesRemovedError())[:40]
        )

    def test_warnings_point_at_the_caller(self, rng: np.random.Generator) -> None:
        with pytest.warns(UserWarning, match="must not exceed") as caught:
            threshold_img(volume(rng), 1e9)
        assert caught[0].filename == __file__

    def test_all_works_without_nilearn(self) -> None:
        program = """
import sys
sys.modules["nilearn"] = None
import nibabel, numpy as np
from gpuroi.nilearn import exceptions, load_img, mean_img, new_img_like, smooth_img, threshold_img
img = nibabel.Nifti1Image(np.random.default_rng(0).random((4, 5, 6)), np.eye(4))
for result in (load_img(img), mean_img([img, img]), new_img_like(img, np.ones((2, 2, 2))), smooth_img(img, 2)):
    assert isinstance(result, nibabel.Nifti1Image)
try:
    load_img([[img], img])
except exceptions.DimensionError as error:
    assert isinstance(error, TypeError)
    print(error)
threshold_img(img, 5)
"""
        environment = {**os.environ, "GPUROI_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert "Expected dimension is 5D and you provided a list of 3D images (4D)." in done.stdout
        assert "must not exceed" in done.stderr

    def test_no_other_names(self) -> None:
        with pytest.raises(AttributeError, match="NoSuchError"):
            _ = exceptions.NoSuchError  # type: ignore[attr-defined]
