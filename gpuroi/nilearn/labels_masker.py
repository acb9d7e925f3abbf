"""Signals of the regions of an atlas."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.image_smoothing import smooth_img
from gpuroi.nilearn.label_signals import img_to_signals_labels, signals_to_img_labels
from gpuroi.nilearn.lookup_table import atlas_table, labels_of, rows_of
from gpuroi.nilearn.masker import BaseMasker, check_frames, check_mask, data_dtype
from gpuroi.nilearn.niimg import check_niimg, check_niimg_3d, image_data
from gpuroi.nilearn.resampling import resample_img
from gpuroi.nilearn.same_grid import check_same_fov, same_grid
from gpuroi.nilearn.scikit_learn import check_array, check_is_fitted
from gpuroi.nilearn.volume_series import VolumeSeries, open_series

__all__ = ["NiftiLabelsMasker"]

_STRATEGIES = ("mean", "median", "sum", "minimum", "maximum", "standard_deviation", "variance")
_TARGETS = ("labels", "data", None)
_FIT_FIRST = (
    "To avoid this warning, make sure to pass the images you want to transform to fit() first, or directly use "
    "fit_transform()."
)


class NiftiLabelsMasker(BaseMasker):
    """Turn images into one signal for each region of an atlas, and back; as `nilearn.maskers.NiftiLabelsMasker`.

    Parameters
    ----------
    labels_img : path or nibabel image, default=None
        3-D; each region has a value of its own, of any integer width, in any order, with gaps.
    labels : list of str, default=None
        Names of the regions, in ascending order of their values, with or without "Background".
    lut : DataFrame, str or Path, default=None
        Instead of `labels`: a table, or a CSV or TSV file, with columns "index" and "name".
    background_label : int or float, default=0
        Value that is no region.
    mask_img : path or nibabel image, default=None
        Voxels outside belong to no region.
    smoothing_fwhm : float, default=None
        Full width at half maximum, mm.
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
    resampling_target : {"data", "labels", None}, default="data"
        Which grid counts where they differ; None: it is an error.
    memory : joblib.Memory, str or Path, default=None
        Kept, not used: nothing is cached.
    memory_level : int, default=1
        Kept, not used.
    verbose : int, default=0
        Above 0: say what is done.
    strategy : str, default="mean"
        mean, median, sum, minimum, maximum, standard_deviation or variance of a region's voxels.
    keep_masked_labels : bool, default=False
        Keep a column, 0, for regions of which the mask leaves nothing.
    reports : bool, default=True
        Kept, not used: there are no reports.
    cmap : str, default=None
        Kept, not used.
    clean_args : dict, default=None
        Further arguments of the cleaning: filter, ensure_finite, extrapolate, butterworth__order, ...

    Attributes
    ----------
    clean_args_ : dict
        `clean_args`, or an empty one.
    labels_img_ : nibabel image
        The atlas, on the grid that counts.
    lut_ : DataFrame
        Labels ("index") and their names, ascending.
    mask_img_ : nibabel image or None
        The mask, on the grid that counts.
    memory_ : joblib.Memory
        Where nilearn would cache.

    Notes
    -----
    `transform` sets `region_atlas_`, the atlas as it was used, and `n_elements_`, `labels_`, `region_ids_` and
    `region_names_` then describe the columns of its result.

    Unlike nilearn 0.14.1: names belong to labels, also where a table repeats one; the list of `labels` is not changed;
    `fit` forgets what an earlier `transform` found; `generate_report` does not exist.

    Examples
    --------
    >>> import nibabel
    >>> atlas = nibabel.Nifti1Image(np.array([[[0, 300, 300, 7]]], np.int16), np.eye(4))
    >>> maps = nibabel.Nifti1Image(np.arange(8.0).reshape(1, 1, 4, 2), np.eye(4))
    >>> masker = NiftiLabelsMasker(atlas, labels=["seven", "three hundred"], standardize=None)
    >>> masker.fit_transform(maps).tolist(), masker.region_names_
    ([[6.0, 3.0], [7.0, 4.0]], {0: 'seven', 1: 'three hundred'})
    """

    def __init__(
        self,
        labels_img: Any = None,
        labels: list[str] | None = None,
        lut: Any = None,
        background_label: float = 0,
        mask_img: Any = None,
        smoothing_fwhm: float | None = None,
        standardize: Any = False,
        standardize_confounds: bool = True,
        high_variance_confounds: bool = False,
        detrend: bool = False,
        low_pass: float | None = None,
        high_pass: float | None = None,
        t_r: float | None = None,
        dtype: Any = None,
        resampling_target: str | None = "data",
        memory: Any = None,
        memory_level: int = 1,
        verbose: int = 0,
        strategy: str = "mean",
        keep_masked_labels: bool = False,
        reports: bool = True,
        cmap: str | None = None,
        clean_args: dict[str, Any] | None = None,
    ) -> None:
        self.labels_img = labels_img
        self.labels = labels
        self.lut = lut
        self.background_label = background_label
        self.mask_img = mask_img
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
        self.memory = memory
        self.memory_level = memory_level
        self.verbose = verbose
        self.strategy = strategy
        self.keep_masked_labels = keep_masked_labels
        self.reports = reports
        self.cmap = cmap
        self.clean_args = clean_args

    @property
    def n_elements_(self) -> int:
        """Number of regions."""
        return len(self._region_labels())

    @property
    def labels_(self) -> list[Any]:
        """Labels of the regions, after that of the background if the image has it."""
        return list(self._table()["index"])

    @property
    def region_names_(self) -> dict[int, str]:
        """Name of the region of each column."""
        table = self._table()
        names = dict(zip(table["index"], table["name"], strict=True))
        return {column: names[label] for column, label in enumerate(self._region_labels())}

    @property
    def region_ids_(self) -> dict[str | int, Any]:
        """Label of the region of each column, and under "background" that of the background."""
        ids: dict[str | int, Any] = dict(enumerate(self._region_labels()))
        if self.background_label in self.labels_:
            ids = {"background": self.background_label, **ids}
        return ids

    def get_feature_names_out(self, input_features: Any = None) -> list[str]:
        """Return the names of the regions; scikit-learn calls the columns by them."""
        del input_features
        return list(self.region_names_.values())

    def transform_single_imgs(self, imgs: Any, confounds: Any = None, sample_mask: Any = None) -> NDArray[Any]:
        """Extract and clean signals; `transform` without checking the images and without wide confounds."""
        check_is_fitted(self)
        series = open_series(imgs)
        check_frames(imgs, len(series))
        atlas, mask = self._on_grid_of(series)
        source: Any = imgs if series.is_4d else [imgs]
        if self.resampling_target == "labels" and not same_grid(atlas, series):
            exceptions.warn(
                "Resampling images at transform time...\nTo avoid this warning, make sure to resample the images you "
                "want to transform to the shape of the maps or set resampling_target to 'data'."
            )
            source = resample_img(
                check_niimg(source),
                target_affine=atlas.affine,
                target_shape=atlas.shape[:3],
                interpolation="continuous",
            )
        if self.smoothing_fwhm is not None:
            self._say("transform", "Smoothing images")
            source = smooth_img(check_niimg(source), self.smoothing_fwhm)
        self._say("transform", "Extracting region signals")
        signals, ids, region_atlas = img_to_signals_labels(
            source,
            atlas,
            mask_img=mask,
            background_label=self.background_label,
            strategy=self.strategy,
            keep_masked_labels=self.keep_masked_labels,
            return_masked_atlas=True,
        )
        self.region_atlas_ = region_atlas
        self._lut_ = self._rows_of_columns(ids)
        return self._finished(
            signals,
            confounds,
            sample_mask,
            ndim=4 if series.is_4d else 3,
            stored_dtype=None if self.dtype is None else data_dtype(imgs),
        )

    def inverse_transform(self, signals: Any) -> Any:
        """Give every voxel of a region, within the mask, the region's signal.

        Parameters
        ----------
        signals : array or DataFrame, shape (n_volumes, n_elements) or (n_elements,)

        Returns
        -------
        nibabel image, (X, Y, Z, n_volumes) or (X, Y, Z)
        """
        return super().inverse_transform(signals)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "labels_img_") and hasattr(self, "lut_")

    def _fit(self, imgs: Any) -> None:
        if self.strategy not in _STRATEGIES:
            raise UsageError(f"'strategy' must be one of {_STRATEGIES}.\n'{self.strategy}' was provided.")
        if self.resampling_target not in _TARGETS:
            raise UsageError(
                f"'resampling_target' must be one of {_TARGETS}.\n'{self.resampling_target}' was provided."
            )
        self._say("fit", f"Loading regions from {self._described(self.labels_img)}")
        self.labels_img_ = check_niimg_3d(self.labels_img)
        names = self._names()
        present = labels_of(image_data(self.labels_img_))
        if not (present != self.background_label).any():
            raise DataError("Image has no label.", "every voxel is background_label: check it and the image")
        self.lut_ = atlas_table(present, self.background_label, names=names, lut=self.lut)
        self.__dict__.pop("_lut_", None)
        self.__dict__.pop("region_atlas_", None)
        series = None if imgs is None else open_series(imgs)
        if self.resampling_target is None:
            check_same_fov({"labels": self.labels_img_, "mask": self.mask_img_, "data": series})
        if self.resampling_target == "data" and series is not None and not same_grid(series, self.labels_img_):
            self._say("fit", "Resampling regions")
            self.labels_img_ = self._resampled_labels(series)
        reference = self.labels_img_ if self.resampling_target == "labels" else None
        if self.resampling_target == "data":
            reference = series
        if self.mask_img_ is not None and reference is not None:
            if not same_grid(reference, self.mask_img_):
                self._say("fit", "Resampling mask")
                self.mask_img_ = _resampled_mask(self.mask_img_, reference)
            self._check_labels_left(self.labels_img_, self.mask_img_)
        self._has_background = bool((image_data(self.labels_img_) == self.background_label).any())

    def _check_signals(self, X: Any) -> NDArray[Any]:
        signals: NDArray[Any] = check_array(super()._check_signals(X), ensure_2d=False)
        return signals

    def _image_of(self, signals: NDArray[Any]) -> Any:
        return signals_to_img_labels(
            signals, self.labels_img_, mask_img=self.mask_img_, background_label=self.background_label
        )

    def _names(self) -> list[str] | None:
        if not self.labels:
            return None
        if self.lut is not None:
            raise UsageError("Pass either labels or a lookup table (lut) to the masker, but not both.")
        if not isinstance(self.labels, list):
            raise TypeError(f"'labels' must be a list. Got: {type(self.labels).__name__}")
        if not all(isinstance(name, str) for name in self.labels):
            kinds = {type(name).__name__ for name in self.labels}
            raise TypeError(f"All elements of 'labels' must be a string.\nGot a list of {kinds}")
        return ["Background" if name == "background" else name for name in self.labels]

    def _table(self) -> Any:
        """Rows of what was transformed last, else of the atlas."""
        check_is_fitted(self)
        return getattr(self, "_lut_", self.lut_)

    def _region_labels(self) -> list[Any]:
        return [label for label in self._table()["index"] if label != self.background_label]

    def _rows_of_columns(self, ids: Any) -> Any:
        """Return the table in the order of the columns, the background first if the image has it."""
        order = list(ids)
        if self._has_background:
            order.insert(0, self.background_label)
        return rows_of(self.lut_, np.array(order)).set_index("index").loc[order].reset_index()[list(self.lut_.columns)]

    def _on_grid_of(self, series: VolumeSeries) -> tuple[Any, Any]:
        """Return atlas and mask on the grid of images, if it is the one that counts; the fitted ones stay."""
        atlas, mask = self.labels_img_, self.mask_img_
        if self.resampling_target != "data":
            return atlas, mask
        if not same_grid(series, atlas):
            exceptions.warn(f"Resampling labels at transform time...\n{_FIT_FIRST}")
            atlas = self._resampled_labels(series)
        if mask is not None and not same_grid(series, mask):
            exceptions.warn(f"Resampling mask at transform time...\n{_FIT_FIRST}")
            mask = _resampled_mask(mask, series)
            self._check_labels_left(atlas, mask)
        return atlas, mask

    def _resampled_labels(self, series: VolumeSeries) -> Any:
        before = labels_of(image_data(self.labels_img_)).tolist()
        moved = _nearest(self.labels_img_, series)
        after = labels_of(image_data(moved)).tolist()
        if len(after) <= 1:
            raise DataError("No label left after resampling the labels image.", "do atlas and images overlap?")
        lost = set(before) - set(after)
        if lost:
            exceptions.warn(
                f"After resampling the label image to the data image, the following labels were removed: {lost}. "
                f"Label image only contains {len(after)} labels (including background)."
            )
        return moved

    def _check_labels_left(self, atlas: Any, mask: Any) -> None:
        inside = image_data(mask) != 0
        if not (image_data(atlas)[inside] != self.background_label).any():
            raise DataError("No label left after applying mask to the labels image.", "do mask and atlas overlap?")


def _resampled_mask(mask: Any, like: Any) -> Any:
    return check_mask(_nearest(mask, like))


def _nearest(img: Any, like: Any) -> Any:
    return resample_img(img, target_affine=like.affine, target_shape=like.shape[:3], interpolation="nearest")
