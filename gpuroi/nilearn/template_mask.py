"""Brain, grey and white matter masks from the MNI152 template, for images in that space."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from gpuroi.backends import get_backend
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.mask_cleaning import clean_mask
from gpuroi.nilearn.niimg import check_niimg, image_data
from gpuroi.nilearn.resampling import resample_img

__all__ = ["compute_brain_mask"]

_TISSUES = {"whole-brain": "t1", "gm": "gm", "wm": "wm"}


def compute_brain_mask(
    target_img: Any,
    threshold: float = 0.5,
    connected: bool = True,
    opening: bool | int = 2,
    memory: Any = None,
    verbose: int = 0,
    mask_type: str = "whole-brain",
) -> Any:
    """Cut a mask out of the MNI152 template on the grid of an image; as `nilearn.masking.compute_brain_mask`.

    Parameters
    ----------
    target_img : path, nibabel image, or list of these
        Only shape and affine count.
    threshold : float, default 0.5
        Voxels of at least this share of the template's largest value stay.
    connected : bool, default True
        Keep only the largest component (6 neighbours).
    opening : bool or int, default 2
        Voxels to open the mask by.
    memory : object, optional
        Accepted, and not used.
    verbose : int, default 0
        Above 0: say what is done.
    mask_type : {"whole-brain", "gm", "wm"}, default "whole-brain"

    Returns
    -------
    nibabel image, uint8

    Raises
    ------
    UsageError
        Any other `mask_type`.
    DataError
        If nilearn, whose package holds the template files, is not installed.

    Notes
    -----
    Only the template (1 mm, ICBM152 2009a) is read from nilearn's package.
    """
    check_types(threshold=threshold, connected=connected, opening=opening, verbose=verbose)
    if mask_type not in _TISSUES:
        raise UsageError(f"Unknown mask type {mask_type}. Only 'whole-brain', 'gm' or 'wm' are accepted.")
    if verbose:
        print(f"[compute_brain_mask] Template {mask_type} mask computation")
    target = check_niimg(target_img)
    template = check_niimg(_template_file(mask_type))
    values = image_data(template).astype(np.float32)
    scaled = new_img_like(template, values / values.max())
    moved = resample_img(scaled, target_affine=target.affine, target_shape=target.shape[:3])
    backend = get_backend("auto")
    with backend.activate():
        inside = backend.asarray(image_data(moved) >= threshold)
        hint = f"{mask_type} mask is empty, lower the threshold or check your input FOV"
        mask = backend.to_numpy(clean_mask(inside, opening=int(opening), connected=connected, hint=hint))
    return new_img_like(target, mask, target.affine)


def _template_file(mask_type: str) -> str:
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise DataError(
            f"the {mask_type} template is not here: it lies in nilearn's package, which is not installed",
            "pip install nilearn, or give a mask: NiftiMasker(mask_img=...)",
        )
    name = f"mni_icbm152_{_TISSUES[mask_type]}_tal_nlin_sym_09a_converted.nii.gz"
    return str(Path(found.origin).parent / "datasets" / "data" / name)
