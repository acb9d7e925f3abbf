"""Grids and masks."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes

from gpuroi.errors import DataError, GridError
from gpuroi.images import check_same_grid, open_image, read_mask, voxel_sizes_mm, voxel_to_mm

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
ROTATED = np.array([[1.8, -0.6, 0, -90], [0.6, 1.8, 0, -126], [0, 0, 2.5, -72], [0, 0, 0, 1.0]])


def saved(folder, name, shape=(4, 5, 6), affine=AFFINE, data=None):
    path = folder / name
    data = np.ones(shape, np.float32) if data is None else data
    nib.save(nib.Nifti1Image(data, affine), path)
    return open_image(path)


@pytest.mark.parametrize("affine", [AFFINE, ROTATED, np.diag([-2, 1, 0.5, 1])])
def test_sizes_and_places_against_nibabel(affine):
    ijk = np.random.default_rng(0).integers(0, 90, (50, 3))
    np.testing.assert_allclose(voxel_sizes_mm(affine), voxel_sizes(affine))
    np.testing.assert_allclose(voxel_to_mm(affine, ijk), apply_affine(affine, ijk))
    assert voxel_to_mm(affine, np.empty((0, 3))).shape == (0, 3)


def test_every_offender_is_named_with_both_values(tmp_path):
    shifted = AFFINE.copy()
    shifted[0, 3] = 1.5
    reference = saved(tmp_path, "ref.nii.gz")
    images = [
        reference,
        saved(tmp_path, "same.nii.gz"),
        saved(tmp_path, "shape.nii.gz", (4, 5, 7)),
        saved(tmp_path, "size.nii.gz", affine=np.diag([3.0, 3, 3, 1])),
        saved(tmp_path, "moved.nii.gz", affine=shifted),
    ]
    with pytest.raises(GridError) as caught:
        check_same_grid(images)
    message = str(caught.value)
    assert "3 of 4 images" in message
    assert f"{tmp_path}/shape.nii.gz: shape 4x5x7, {tmp_path}/ref.nii.gz: 4x5x6" in message
    assert f"{tmp_path}/size.nii.gz: voxel size 3 mm, {tmp_path}/ref.nii.gz: 2 x 2 x 3 mm" in message
    assert "moved.nii.gz: affine [2 0 0 1.5; 0 2 0 0; 0 0 3 0]" in message
    assert "1.5 mm apart" in message
    assert "same.nii.gz" not in message
    assert "resample" in caught.value.hint


def test_one_offender_is_one_line(tmp_path):
    with pytest.raises(GridError) as caught:
        check_same_grid([saved(tmp_path, "a.nii", (1, 2, 3))], reference=saved(tmp_path, "b.nii", (3, 2, 1)))
    assert caught.value.message == f"{tmp_path}/a.nii: shape 1x2x3, {tmp_path}/b.nii: 3x2x1"


def test_flip_with_equal_sizes_is_found(tmp_path):
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    with pytest.raises(GridError, match="affine"):
        check_same_grid([saved(tmp_path, "a.nii"), saved(tmp_path, "b.nii", affine=flipped)])


def test_small_rotation_of_a_large_volume_is_found_at_its_far_corner(tmp_path):
    turned = AFFINE.copy()
    turned[0, 1] = 2e-4  # 0.02 mm at the 100th voxel; the voxel size changes by 1e-8
    images = [saved(tmp_path, "a.nii", (4, 100, 4)), saved(tmp_path, "b.nii", (4, 100, 4), turned)]
    with pytest.raises(GridError, match="affine"):
        check_same_grid(images)
    check_same_grid(images, tolerance=0.02)


def test_rounding_of_writers_is_no_difference(tmp_path):
    a = saved(tmp_path, "a.nii", affine=ROTATED)
    check_same_grid([a, open_image(nib.Nifti1Image(np.ones((4, 5, 6)), ROTATED + 1e-5))])
    check_same_grid([])


def test_mask_is_nonzero_and_not_nan(tmp_path):
    data = np.zeros((4, 5, 6), np.float32)
    data[1, 2, 3], data[0, 0, 0], data[3, 4, 5] = -0.5, np.nan, 2
    image = saved(tmp_path, "m.nii.gz", data=data)
    mask = read_mask(image, saved(tmp_path, "map.nii"))
    assert mask.dtype == bool
    assert np.argwhere(mask).tolist() == [[1, 2, 3], [3, 4, 5]]


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "float64"])
def test_mask_of_any_type_and_one_frame(tmp_path, dtype):
    data = np.zeros((4, 5, 6, 1), dtype)
    data[1:3, 2] = 1
    image = saved(tmp_path, "m.nii.gz", data=data)
    np.testing.assert_array_equal(read_mask(image.name, image), data[..., 0] != 0)


def test_scaled_mask_uses_the_real_values(tmp_path):
    img = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), AFFINE)
    img.header.set_slope_inter(1, -5)
    nib.save(img, tmp_path / "m.nii")
    want = nib.load(tmp_path / "m.nii").get_fdata() != 0
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii"), want)


def test_unusable_masks_say_why(tmp_path):
    like = saved(tmp_path, "map.nii")
    with pytest.raises(DataError, match=r"two\.nii: 2 volumes"):
        read_mask(saved(tmp_path, "two.nii", (4, 5, 6, 2)), like)
    with pytest.raises(DataError, match=r"empty\.nii: the mask is empty"):
        read_mask(saved(tmp_path, "empty.nii", data=np.full((4, 5, 6), np.nan, np.float32)), like)
    with pytest.raises(GridError, match=r"other\.nii: shape 4x5x7, .*map\.nii: 4x5x6"):
        read_mask(saved(tmp_path, "other.nii", (4, 5, 7)), like)
