"""Arrays as nibabel images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["image_like"]

_NIFTI1_LONGEST_AXIS = 32767


def image_like(data: NDArray[Any], like: Image) -> Any:
    """Return an array as a NIfTI image in the space of another image.

    Parameters
    ----------
    data : array, shape (X, Y, Z) or (n, X, Y, Z)
        A batch becomes the fourth axis of the image, without a copy. Stored as its own type.
    like : Image
        Its affine, space codes, units and time between volumes are kept.

    Returns
    -------
    nibabel.Nifti1Image
        Nifti2Image where an axis is longer than 32767.
    """
    import nibabel

    on_disk = data if data.ndim == 3 else data.transpose(1, 2, 3, 0)
    make: Any = nibabel.Nifti1Image if max(on_disk.shape) <= _NIFTI1_LONGEST_AXIS else nibabel.Nifti2Image
    image = make(on_disk, like.affine, dtype=data.dtype)
    code = like.header["sform_code"].item() if "sform_code" in getattr(like.header, "keys", list)() else 0
    code = code or 2  # aligned, as nibabel says where nothing is known
    image.set_sform(like.affine, code=code, update_affine=False)  # the header rounds to float32
    image.set_qform(like.affine, code=code, update_affine=False)
    image.header.set_xyzt_units("mm", "sec" if on_disk.ndim == 4 else None)
    if on_disk.ndim == 4 and like.tr_s is not None:
        image.header["pixdim"][4] = like.tr_s
    return image
