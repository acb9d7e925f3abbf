"""Regions of maps as an estimator: found, and their signals extracted from images."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.connected import connected_regions
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.image_smoothing import smooth_img
from gpuroi.nilearn.image_threshold import threshold_img
from gpuroi.nilearn.map_signals import img_to_signals_maps, signals_to_img_maps
from gpuroi.nilearn.masker import BaseMasker, check_frames, check_mask, data_dtype
from gpuroi.nilearn.niimg import check_niimg, check_niimg_4d, finite_data, image_data
from gpuroi.nilearn.resampling import resample_img
from gpuroi.nilearn.same_grid import check_same_fov, same_grid
from gpuroi.nilearn.scikit_learn import ClassNamePrefixFeaturesOutMixin, check_array, check_is_fitted
from gpuroi.nilearn.volume_series import open_series

__all__ = ["RegionExtractor"]

_STRATEGIES = ["ratio_n_voxels", "img_value", "percentile"]
_TARGETS = ("mask", "maps", "data", None)
_FIT_FIRST = (
    "To avoid this warning, make sure to pass the images you want to transform to fit() first, or directly use "
    "fit_transform()."
)


class RegionExtractor(ClassNamePrefixFeaturesOutMixin, BaseMasker):  # type: ignore[misc]
    """Separate maps into regions, and turn images into one signal a region; as `nilearn.regions.RegionExtractor`.

    Parameters
    ----------
    maps_img : path, nibabel image, or list of these, default=None
        4-D: one map, or component, a volume.
    mask_img : path or nibabel image, default=None
        Voxels outside count as 0.
    min_region_size : float, default=1350
        mm3. A region stays if it is larger than this.
    threshold : float, default=1.0
        What the strategy takes it for.
    thresholding_strategy : {"ratio_n_voxels", "img_value", "percentile"}
        "ratio_n_voxels" keeps the largest |x|: of all maps together, `threshold` times the voxels of one. "img_value"
        keeps values that reach `threshold`, "percentile" those that reach this percentile.
    two_sided : bool, default=False
        For "img_value" and "percentile": of |x|, so that negative parts stay.
    extractor : {"local_regions", "connected_components"}
        See `connected_regions`.
    smoothing_fwhm : float, default=6
        mm. For the peaks of "local_regions", and for the images that are transformed, as in nilearn.
    standardize : {"zscore_sample", "psc", True, False, None}, default=False
        Mean 0 and standard deviation 1, or percent of the mean. True and False are nilearn's old words.
    standardize_confounds : bool, default=True
        Scale confounds to standard deviation 1 first.
    high_variance_confounds : bool, default=False
        Regress out the five components of the 2 percent of voxels that vary most.
    detrend : bool, default=False
        Remove linear trends.
    low_pass : float, default=None
        Hz.
    high_pass : float, default=None
        Hz.
    t_r : float, default=None
        Seconds between volumes.
    dtype : dtype or "auto", default=None
        Of the signals; "auto" is int32 for images of integers, else float32.
    resampling_target : {"data", "mask", "maps", None}, default="data"
        Which grid counts where they differ; None: it is an error.
    keep_masked_maps : bool, default=False
        Keep a column, 0, for regions of which the mask leaves nothing.
    memory : joblib.Memory, str or Path, default=None
        Kept, not used: nothing is cached.
    memory_level : int, default=0
        Kept, not used.
    verbose : int, default=0
        Above 0: say what is done.
    reports : bool, default=True
        Kept, not used: there are no reports.
    cmap : str, default="CMRmap_r"
        Kept, not used.
    allow_overlap : bool, default=True
        False: an error where two regions hold a positive value in one voxel.
    clean_args : dict, default=None
        Further arguments of the cleaning: filter, ensure_finite, extrapolate, butterworth__order, ...

    Attributes
    ----------
    clean_args_ : dict
        `clean_args`, or an empty one.
    index_ : list of int
        The map that each region comes from.
    maps_img_ : nibabel image
        The regions, on the grid that counts.
    mask_img_ : nibabel image or None
        The mask, on the grid that counts.
    memory_ : joblib.Memory
        Where nilearn would cache.
    n_elements_ : int
        Number of regions.
    regions_img_ : nibabel image
        The regions, (X, Y, Z, n_elements_), on the grid of `maps_img`.

    Notes
    -----
    Unlike nilearn 0.14.1: `fit` leaves `threshold` as it was given, so that it can be called again with "percentile";
    that no region is found is an error that says so; `generate_report` does not exist.

    References
    ----------
    .. [1] Abraham A, Dohmatob E, Thirion B, Samaras D, Varoquaux G (2014). Region segmentation for sparse
       decompositions: better brain parcellations from rest fMRI. arXiv:1412.3925

    Examples
    --------
    >>> import nibabel
    >>> maps = np.zeros((20, 8, 8, 2), np.float32)
    >>> maps[1:7, 1:7, 1:7, 0], maps[12:19, 1:7, 1:7, 0], maps[8:11, :, :, 1] = 1, 2, 3
    >>> extractor = RegionExtractor(
    ...     nibabel.Nifti1Image(maps, np.diag([3, 3, 3, 1])), threshold=0.5, thresholding_strategy="img_value",
    ...     extractor="connected_components", standardize=None,
    ... ).fit()
    >>> extractor.index_, extractor.n_elements_
    ([0, 0, 1], 3)
    """

    def __init__(
        self,
        maps_img: Any = None,
        mask_img: Any = None,
        min_region_size: float = 1350,
        threshold: Any = 1.0,
        thresholding_strategy: str = "ratio_n_voxels",
        two_sided: bool = False,
        extractor: str = "local_regions",
        smoothing_fwhm: float | None = 6,
        standardize: Any = False,
        standardize_confounds: bool = True,
        high_variance_confounds: bool = False,
        detrend: bool = False,
        low_pass: float | None = None,
        high_pass: float | None = None,
        t_r: float | None = None,
        dtype: Any = None,
        resampling_target: str | None = "data",
        keep_masked_maps: bool = False,
        memory: Any = None,
        memory_level: int = 0,
        verbose: int = 0,
        reports: bool = True,
        cmap: str | None = "CMRmap_r",
        allow_overlap: bool = True,
        clean_args: dict[str, Any] | None = None,
    ) -> None:
        self.maps_img = maps_img
        self.mask_img = mask_img
        self.min_region_size = min_region_size
        self.threshold = threshold
        self.thresholding_strategy = thresholding_strategy
        self.two_sided = two_sided
        self.extractor = extractor
        self.smoothing_fwhm = smoothing_fwhm
        self.standardize = standardize
        self.standardize_confounds = standardize_confounds
        self.high_variance_confounds = high_variance_confounds
        self.detrend = detrend
        self.low_pass = low_pass
        self.high_pass = high_pass
        self.t_r = t_r
        self.dtype = dtype
        self.resampling_target = resampling_target
        self.keep_masked_maps = keep_masked_maps
        self.memory = memory
        self.memory_level = memory_level
        self.verbose = verbose
        self.reports = reports
        self.cmap = cmap
        self.allow_overlap = allow_overlap
        self.clean_args = clean_args

    def inverse_transform(self, region_signals: Any) -> Any:
        """Add the regions up, each times its signal; nothing else is undone.

        Parameters
        ----------
        region_signals : array or DataFrame, shape (n_volumes, n_elements) or (n_elements,)

        Returns
        -------
        nibabel image, (X, Y, Z, n_volumes) or (X, Y, Z)
        """
        return super().inverse_transform(region_signals)

    def transform_single_imgs(self, imgs: Any, confounds: Any = None, sample_mask: Any = None) -> NDArray[Any]:
        """Extract and clean signals; `transform` without checking the images and without wide confounds."""
        check_is_fitted(self)
        series = open_series(imgs)
        check_frames(imgs, len(series))
        maps, mask = self._on_grid_of(series)
        self._check_overlap(maps)
        source: Any = check_niimg(imgs, atleast_4d=True)
        if self.resampling_target != "data" and not same_grid(maps, series):
            source = resample_img(
                source, target_affine=maps.affine, target_shape=maps.shape[:3], interpolation="continuous"
            )
        if self.smoothing_fwhm is not None:
            self._say("transform", "Smoothing images")
            source = smooth_img(source, self.smoothing_fwhm)
        self._say("transform", "Extracting region signals")
        signals, _ = img_to_signals_maps(source, maps, mask_img=mask, keep_masked_maps=self.keep_masked_maps)
        return self._finished(
            signals,
            confounds,
            sample_mask,
            ndim=4 if series.is_4d else 3,
            stored_dtype=None if self.dtype is None else data_dtype(imgs),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "maps_img_") and hasattr(self, "n_elements_")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_types(keep_masked_maps=self.keep_masked_maps)

    def _fit(self, imgs: Any) -> None:
        maps = check_niimg_4d(self.maps_img)
        if self.thresholding_strategy not in _STRATEGIES:
            raise UsageError(
                f"'thresholding_strategy' must be one of {_STRATEGIES}.\n'{self.thresholding_strategy}' was provided."
            )
        if self.resampling_target not in _TARGETS:
            raise UsageError(
                f"'resampling_target' must be one of {_TARGETS}.\n'{self.resampling_target}' was provided."
            )
        if self.mask_img is None and self.resampling_target == "mask":
            raise UsageError(
                "resampling_target has been set to 'mask' but no mask has been provided.\nSet resampling_target to "
                "something else or provide a mask."
            )
        found: Any = connected_regions(
            self._thresholded(maps), self.min_region_size, self.extractor, self.smoothing_fwhm, mask_img=self.mask_img_
        )
        self.regions_img_, self.index_ = found
        if self.regions_img_ is None:
            raise DataError(
                f"no region is larger than {self.min_region_size} mm3 at threshold {self.threshold} "
                f"({self.thresholding_strategy})",
                "lower the threshold or min_region_size",
            )
        self._bring_to_one_grid(imgs)
        self.n_elements_ = self.maps_img_.shape[3]

    def _thresholded(self, maps: Any) -> Any:
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, numbers.Real):
            raise UsageError(
                "The given input to threshold is not valid. Please submit a valid number specific to either of the "
                f"strategy in {_STRATEGIES}"
            )
        if self.thresholding_strategy == "ratio_n_voxels":
            return _with_ratio(maps, float(self.threshold))
        threshold = f"{self.threshold}%" if self.thresholding_strategy == "percentile" else float(self.threshold)
        return threshold_img(maps, threshold, mask_img=self.mask_img_, two_sided=self.two_sided)

    def _bring_to_one_grid(self, imgs: Any) -> None:
        """Set `maps_img_`, and bring it and the mask to the grid that counts."""
        self.maps_img_ = self.regions_img_
        series = None if imgs is None else open_series(imgs)
        if self.resampling_target is None:
            check_same_fov({"maps": self.maps_img_, "mask": self.mask_img_, "data": series})
        reference = {"data": series, "mask": self.mask_img_, "maps": self.maps_img_}.get(str(self.resampling_target))
        if reference is None:
            return
        if not same_grid(reference, self.maps_img_):
            self._say("fit", "Resampling regions")
            self.maps_img_ = _resampled_maps(self.maps_img_, reference)
        if self.mask_img_ is None:
            return
        if not same_grid(reference, self.mask_img_):
            self._say("fit", "Resampling mask")
            self.mask_img_ = _resampled_mask(self.mask_img_, reference)
        if not image_data(self.maps_img_)[image_data(self.mask_img_) != 0].any():
            raise DataError("No map left after applying mask to the maps image.", "do mask and maps overlap?")

    def _on_grid_of(self, series: Any) -> tuple[Any, Any]:
        """Return regions and mask on the grid of images, if it is the one that counts; the fitted ones stay."""
        maps, mask = self.maps_img_, self.mask_img_
        if self.resampling_target is None:
            check_same_fov({"maps": maps, "data": series, "mask": mask})
        if self.resampling_target == "maps" and not same_grid(maps, series):
            exceptions.warn(
                "Resampling images at transform time...\nTo avoid this warning, make sure to resample the images you "
                "want to transform to the shape of the maps or set resampling_target to 'data'."
            )
        if self.resampling_target != "data":
            return maps, mask
        if not same_grid(series, maps):
            exceptions.warn(f"Resampling maps at transform time...\n{_FIT_FIRST}")
            maps = _resampled_maps(maps, series)
        if mask is not None and not same_grid(series, mask):
            exceptions.warn(f"Resampling mask at transform time...\n{_FIT_FIRST}")
            mask = _resampled_mask(mask, series)
        return maps, mask

    def _check_overlap(self, maps: Any) -> None:
        if self.allow_overlap:
            return
        data = image_data(maps)
        least = np.finfo(data.dtype).eps if data.dtype.kind == "f" else 1
        if ((data >= least).sum(axis=3) > 1).any():
            raise DataError(
                "Overlap detected in the maps. The overlap may be due to the atlas itself or possibly introduced by "
                "resampling."
            )

    def _check_signals(self, X: Any) -> NDArray[Any]:
        signals: NDArray[Any] = check_array(super()._check_signals(X), ensure_2d=False)
        return signals

    def _image_of(self, signals: NDArray[Any]) -> Any:
        return signals_to_img_maps(signals, self.maps_img_, mask_img=self.mask_img_)


def _with_ratio(maps: Any, ratio: float) -> Any:
    """Keep the largest |x| of all maps together: `ratio` times as many values as one map has voxels."""
    n_maps = maps.shape[3]
    if not 0 < ratio <= n_maps:
        raise UsageError(
            "threshold given as ratio to the number of voxels must be Real number and should be positive and between 0 "
            f"and total number of maps i.e. n_maps={n_maps}. You provided {ratio}"
        )
    data = finite_data(maps)
    magnitude = np.abs(data)
    data[magnitude < _percentile(magnitude.ravel(order="K"), 100.0 - (100.0 / n_maps) * ratio)] = 0
    return new_img_like(maps, data, maps.affine)


def _percentile(values: NDArray[Any], percent: float) -> float:
    """Interpolate linearly between two values, in float64: which ones are cut off depends on the last bit."""
    place = percent / 100.0 * (values.size - 1)
    below = int(place)
    above = min(below + 1, values.size - 1)
    ordered = np.partition(values, (below, above))
    if place == below:
        return float(ordered[below])
    return float(ordered[below]) * (below + 1 - place) + float(ordered[above]) * (place - below)


def _resampled_maps(maps: Any, reference: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Resampling binary images", UserWarning)
        moved = resample_img(
            maps, target_affine=reference.affine, target_shape=reference.shape[:3], interpolation="linear"
        )
    if not image_data(moved).any():
        raise DataError("No map left after resampling maps_img.", "do maps and images overlap?")
    return moved


def _resampled_mask(mask: Any, reference: Any) -> Any:
    return check_mask(
        resample_img(mask, target_affine=reference.affine, target_shape=reference.shape[:3], interpolation="nearest")
    )
