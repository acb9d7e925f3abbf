"""Signals of the voxels in a mask."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError, UsageError
from gpuroi.images import voxel_to_mm
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.background_mask import compute_background_mask
from gpuroi.nilearn.epi_mask import compute_epi_mask
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.masker import BaseMasker, check_frames, data_dtype
from gpuroi.nilearn.masking import load_mask_img, masked_series, unmask
from gpuroi.nilearn.niimg import check_niimg, image_data
from gpuroi.nilearn.resampling import resample_img
from gpuroi.nilearn.same_grid import same_grid
from gpuroi.nilearn.scikit_learn import ClassNamePrefixFeaturesOutMixin, check_is_fitted
from gpuroi.nilearn.template_mask import compute_brain_mask
from gpuroi.nilearn.volume_series import open_series

__all__ = ["NiftiMasker"]

_STRATEGIES: dict[str, Callable[..., Any]] = {
    "background": compute_background_mask,
    "epi": compute_epi_mask,
    "whole-brain-template": functools.partial(compute_brain_mask, mask_type="whole-brain"),
    "gm-template": functools.partial(compute_brain_mask, mask_type="gm"),
    "wm-template": functools.partial(compute_brain_mask, mask_type="wm"),
}


class NiftiMasker(ClassNamePrefixFeaturesOutMixin, BaseMasker):  # type: ignore[misc]
    """Turn images into signals of the voxels in a mask, and back; as `nilearn.maskers.NiftiMasker`.

    Parameters
    ----------
    mask_img : path or nibabel image, default=None
        Without one, `fit` makes it from the images. Images on another grid are resampled to it.
    runs : array, shape (n_volumes,), default=None
        Run of each volume: each is cleaned for itself.
    smoothing_fwhm : float, default=None
        Full width at half maximum, mm.
    standardize : {"zscore_sample", "psc", True, False, None}, default=False
        Mean 0 and standard deviation 1, or percent of the mean. True and False are nilearn's old words.
    standardize_confounds : bool, default=True
        Scale confounds to standard deviation 1 first.
    detrend : bool, default=False
        Remove linear trends.
    high_variance_confounds : bool, default=False
        Regress out the five components of the 2 percent of voxels that vary most.
    low_pass : float, default=None
        Hz.
    high_pass : float, default=None
        Hz.
    t_r : float, default=None
        Seconds between volumes.
    target_affine : array, shape (3, 3) or (4, 4), default=None
        Grid of mask and images.
    target_shape : tuple of int, default=None
        Shape of that grid.
    mask_strategy : str, default='background'
        'background', 'epi', 'whole-brain-template', 'gm-template' or 'wm-template'. The templates are those of
        nilearn's package, and for images in MNI space.
    mask_args : dict, default=None
        Further arguments of the function that makes the mask.
    dtype : dtype or "auto", default=None
        Of the signals; "auto" is int32 for images of integers, else float32.
    memory : joblib.Memory, str or Path, default=None
        Kept, not used: nothing is cached.
    memory_level : int, default=1
        Kept, not used.
    verbose : int, default=0
        Above 0: say what is done.
    reports : bool, default=True
        Kept, not used: there are no reports.
    cmap : str, default="gray"
        Kept, not used.
    clean_args : dict, default=None
        Further arguments of the cleaning: filter, ensure_finite, extrapolate, butterworth__order, ...

    Attributes
    ----------
    affine_ : array
        Of the images transformed.
    clean_args_ : dict
        `clean_args`, or an empty one.
    mask_img_ : nibabel image
        The mask, uint8.
    memory_ : joblib.Memory
        Where nilearn would cache.
    n_elements_ : int
        Voxels in the mask.

    Notes
    -----
    Files are read into the matrix one a thread; smoothing and cleaning run on the device that GPUROI_DEVICE names. See
    `gpuroi.nilearn.signal_cleaning.clean` for what differs from nilearn in the cleaning. `generate_report` does not
    exist. A mask made from images that has other values than 0 and 1 never occurs.

    Examples
    --------
    >>> import nibabel
    >>> mask = nibabel.Nifti1Image(np.array([[[0, 1, 1]]], np.uint8), np.eye(4))
    >>> maps = nibabel.Nifti1Image(np.arange(12.0).reshape(1, 1, 3, 4), np.eye(4))
    >>> NiftiMasker(mask, standardize=None).fit().transform(maps).tolist()
    [[4.0, 8.0], [5.0, 9.0], [6.0, 10.0], [7.0, 11.0]]
    """

    def __init__(
        self,
        mask_img: Any = None,
        runs: Any = None,
        smoothing_fwhm: float | None = None,
        standardize: Any = False,
        standardize_confounds: bool = True,
        detrend: bool = False,
        high_variance_confounds: bool = False,
        low_pass: float | None = None,
        high_pass: float | None = None,
        t_r: float | None = None,
        target_affine: Any = None,
        target_shape: Any = None,
        mask_strategy: str = "background",
        mask_args: dict[str, Any] | None = None,
        dtype: Any = None,
        memory: Any = None,
        memory_level: int = 1,
        verbose: int = 0,
        reports: bool = True,
        cmap: str = "gray",
        clean_args: dict[str, Any] | None = None,
    ) -> None:
        self.mask_img = mask_img
        self.runs = runs
        self.smoothing_fwhm = smoothing_fwhm
        self.standardize = standardize
        self.standardize_confounds = standardize_confounds
        self.detrend = detrend
        self.high_variance_confounds = high_variance_confounds
        self.low_pass = low_pass
        self.high_pass = high_pass
        self.t_r = t_r
        self.target_affine = target_affine
        self.target_shape = target_shape
        self.mask_strategy = mask_strategy
        self.mask_args = mask_args
        self.dtype = dtype
        self.memory = memory
        self.memory_level = memory_level
        self.verbose = verbose
        self.reports = reports
        self.cmap = cmap
        self.clean_args = clean_args

    def transform_single_imgs(
        self, imgs: Any, confounds: Any = None, sample_mask: Any = None, copy: bool = True
    ) -> NDArray[Any]:
        """Extract and clean signals; `transform` without checking the images and without wide confounds."""
        del copy  # images given are never written to
        check_is_fitted(self)
        series = open_series(imgs)
        check_frames(imgs, len(series))
        mask_img, source = self.mask_img_, series
        if not same_grid(series, mask_img):
            exceptions.warn(
                "imgs are being resampled to the mask_img resolution. This process is memory intensive. You might want "
                "to provide a target_affine that is equal to the affine of the imgs or resample the mask beforehand to "
                "save memory and computation time."
            )
            mask_img = _cropped(mask_img)
            self._say("transform", "Resampling images")
            source = open_series(
                resample_img(
                    check_niimg(imgs, atleast_4d=True),
                    target_affine=mask_img.affine,
                    target_shape=mask_img.shape,
                    interpolation="continuous",
                )
            )
        if self.smoothing_fwhm is not None:
            self._say("transform", "Smoothing images")
        self._say("transform", "Extracting region signals")
        mask, _ = load_mask_img(mask_img)
        rows = masked_series(source, mask, mask_img.affine, smoothing_fwhm=self.smoothing_fwhm, name=mask_img)
        return self._finished(
            np.atleast_2d(rows),
            confounds,
            sample_mask,
            ndim=4 if series.is_4d else 3,
            stored_dtype=None if self.dtype is None else data_dtype(imgs),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "mask_img_")

    def _fit(self, imgs: Any) -> None:
        if self.mask_img_ is None:
            self.mask_img_ = self._computed_mask(imgs)
        elif imgs is not None:
            exceptions.warn(
                f"[{type(self).__name__}.fit] Generation of a mask has been requested (imgs != None) while a mask was "
                "given at masker creation. Given mask will be used.",
                RuntimeWarning,
            )
        if self.target_affine is not None or self.target_shape is not None:
            self._say("fit", "Resampling mask")
            self.mask_img_ = resample_img(
                self.mask_img_,
                target_affine=self.target_affine,
                target_shape=self.target_shape,
                interpolation="nearest",
            )
        self.affine_ = self.mask_img_.affine if self.target_affine is None else self.target_affine
        inside, _ = load_mask_img(self.mask_img_)
        self.n_elements_ = int(inside.sum())

    def _computed_mask(self, imgs: Any) -> Any:
        name = type(self).__name__
        if imgs is None:
            raise DataError(f"Parameter 'imgs' must be provided to {name}.fit() if no mask is passed to mask_img.")
        self._say("fit", "Computing mask")
        if self.mask_strategy not in _STRATEGIES:
            known = ", ".join(repr(strategy) for strategy in _STRATEGIES)
            raise UsageError(f"Unknown value of mask_strategy '{self.mask_strategy}'. Acceptable values are {known}.")
        compute = _STRATEGIES[self.mask_strategy]
        known_args = inspect.signature(compute).parameters
        given = self.mask_args or {}
        skipped = [arg for arg in given if arg not in known_args]
        if skipped:
            exceptions.warn(
                f"The following arguments are not supported by the masking strategy '{self.mask_strategy}': {skipped}"
            )
        used = {arg: value for arg, value in given.items() if arg in known_args}
        return compute(imgs, **{"verbose": max(0, int(self.verbose) - 1), **used})

    def _image_of(self, signals: NDArray[Any]) -> Any:
        return unmask(signals, self.mask_img_)


def _cropped(mask_img: Any) -> Any:
    """Return a mask without what lies more than a voxel outside: less to resample."""
    inside = image_data(mask_img) != 0
    box = []
    for axis in range(3):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(int(hit[0]) - 1, 0), min(int(hit[-1]) + 2, inside.shape[axis])))
    affine = mask_img.affine.copy()
    affine[:3, 3] = voxel_to_mm(affine, [side.start for side in box])
    return new_img_like(mask_img, image_data(mask_img)[tuple(box)], affine)
