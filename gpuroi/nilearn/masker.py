"""What the estimators that turn images into signals share: checks, confounds, cleaning, the way back."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.niimg import as_list, check_niimg, finite_data, image_data, image_name, is_image, is_volume_input
from gpuroi.nilearn.scikit_learn import BaseEstimator, InputTags, Memory, TransformerMixin, check_is_fitted

__all__ = ["BaseMasker", "check_frames", "check_images", "check_mask", "data_dtype", "in_dtype"]

_CHECKED = (  # those of these names that an estimator has
    "detrend",
    "high_pass",
    "keep_masked_labels",
    "low_pass",
    "memory_level",
    "smoothing_fwhm",
    "standardize_confounds",
    "t_r",
    "target_affine",
    "target_shape",
    "verbose",
)
_STANDARDIZE = ("zscore_sample", "psc", True, False, None)
_BOOLEAN_STANDARDIZE = (
    "boolean values for 'standardize' will be deprecated in nilearn 0.15.0.\n"
    "Use 'zscore_sample' instead of 'True' or use 'None' instead of 'False'."
)


class _AffineError(UsageError, np.linalg.LinAlgError):
    """No affine; nilearn finds out when it inverts it."""


@dataclass
class _ImageTags(InputTags):  # type: ignore[misc]
    """scikit-learn's tags of an input, and those by which nilearn tells what its estimators take."""

    niimg_like: bool = True
    surf_img: bool = False


class BaseMasker(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images in, one row of signals a volume out; signals in, images out.

    A subclass has nilearn's parameters, and supplies `_fit(imgs)`, `transform_single_imgs(imgs, confounds,
    sample_mask)` and `_image_of(signals)`. Signals it has extracted go through `_finished`.

    Notes
    -----
    `memory` and `memory_level` are checked and kept for nilearn's sake; nothing is written to that folder: computing
    anew takes less time than reading a cache, and the results are the same.
    """

    _estimator_type = "masker"
    mask_img: Any
    standardize: Any
    dtype: Any
    verbose: Any
    clean_args: Any
    memory: Any
    n_elements_: Any
    mask_img_: Any

    def fit(self, imgs: Any = None, y: Any = None) -> Any:
        """Check the parameters, and make or load the mask.

        Parameters
        ----------
        imgs : str, path, nibabel image, or list of these, optional
            Images from which a mask is made, or to whose grid regions go.
        y : None
            Not used; scikit-learn passes it.

        Returns
        -------
        self
        """
        del y
        self._check_parameters()
        imgs = as_list(imgs)
        if imgs is not None:
            self._say("fit", f"Loading data from {self._described(imgs)}")
            check_images(imgs)
        self.clean_args_ = {} if self.clean_args is None else self.clean_args
        self.memory_ = _memory(self.memory)
        self.mask_img_ = self._load_mask()
        self._fit(imgs)
        self._say("fit", "Finished fit")
        return self

    def transform(self, imgs: Any, confounds: Any = None, sample_mask: Any = None) -> NDArray[Any]:
        """Extract signals, and clean them.

        Parameters
        ----------
        imgs : str, path, nibabel image, or list of these
            3-D, 4-D, or a list of 3-D ones.
        confounds : array, DataFrame, path of a CSV or TSV file, or list of these, optional
            One row a volume; regressed out.
        sample_mask : array of int or bool, or list of these, optional
            Volumes to keep.

        Returns
        -------
        array, shape (n_volumes, n_elements); (n_elements,) for a 3-D image
            Or a DataFrame, after `set_output`.
        """
        check_is_fitted(self)
        imgs = as_list(imgs)
        check_images(imgs)
        if self.standardize in (True, False):
            exceptions.warn(_BOOLEAN_STANDARDIZE, FutureWarning)
        everything: list[Any] = []
        if getattr(self, "high_variance_confounds", False):
            everything.append(_high_variance(imgs))
        if isinstance(confounds, list):
            everything += confounds
        elif confounds is not None:
            everything.append(confounds)
        signals: NDArray[Any] = self.transform_single_imgs(imgs, confounds=everything or None, sample_mask=sample_mask)
        return signals

    def fit_transform(self, imgs: Any, y: Any = None, confounds: Any = None, sample_mask: Any = None) -> NDArray[Any]:
        """Fit, then transform the same images; see there."""
        imgs = as_list(imgs)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Generation of a mask.*")
            self.fit(imgs, y)
        signals: NDArray[Any] = self.transform(imgs, confounds=confounds, sample_mask=sample_mask)
        return signals

    def inverse_transform(self, X: Any) -> Any:
        """Put signals back into images; nothing else is undone.

        Parameters
        ----------
        X : array or DataFrame, shape (n_volumes, n_elements) or (n_elements,)

        Returns
        -------
        nibabel image, (X, Y, Z, n_volumes) or (X, Y, Z)
        """
        check_is_fitted(self)
        signals = self._check_signals(X)
        self._say("inverse_transform", "Computing image from signals")
        image = self._image_of(signals)
        target = in_dtype(signals.dtype, self.dtype) or signals.dtype
        result = new_img_like(image, image_data(image).astype(target, copy=False))
        result.set_data_dtype(target)
        return result

    def transform_single_imgs(self, imgs: Any, confounds: Any = None, sample_mask: Any = None) -> Any:
        """Extract and clean the signals of one (list of) image(s), checked before."""
        raise NotImplementedError(f"{type(self).__name__} does not say how signals are extracted")

    def _fit(self, imgs: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is fitted")

    def _image_of(self, signals: NDArray[Any]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not say how images are made")

    @property
    def generate_report(self) -> Any:
        """Not here: nilearn draws reports of its maskers; raises AttributeError."""
        raise AttributeError(
            f"{type(self).__name__} of gpuroi makes no report; use nilearn's own class for the picture of a mask, or "
            "gpuroi's commands, which write reports"
        )

    @property
    def _n_features_out(self) -> int:
        return int(self.n_elements_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = _ImageTags()
        tags.estimator_type = "masker"
        return tags

    def _more_tags(self) -> Any:
        return self.__sklearn_tags__()

    def _check_parameters(self) -> None:
        check_types(**{name: getattr(self, name) for name in _CHECKED if hasattr(self, name)})
        if self.standardize not in _STANDARDIZE:
            raise UsageError(f"'standardize' must be one of {_STANDARDIZE}.\n'{self.standardize}' was provided.")
        if self.dtype is bool or (self.dtype not in (None, "auto") and np.dtype(self.dtype) == bool):
            raise TypeError("'dtype' cannot be bool")
        affine = getattr(self, "target_affine", None)
        if affine is not None and np.shape(affine) not in ((3, 3), (4, 4)):
            raise _AffineError(f"'target_affine' has shape {np.shape(affine)}; expected (3, 3) or (4, 4)")

    def _load_mask(self) -> Any:
        """Return the mask given as uint8 image, 1 where all frames of it are not 0; None without one."""
        if self.mask_img is None:
            return None
        self._say("fit", f"Loading mask from {self._described(self.mask_img)}")
        given = check_niimg(self.mask_img, atleast_4d=True)
        inside = finite_data(given).astype(bool).all(axis=3)
        return check_mask(new_img_like(given, inside))

    def _finished(
        self,
        signals: NDArray[Any],
        confounds: Any,
        sample_mask: Any,
        *,
        ndim: int,
        stored_dtype: np.dtype[Any] | None,
    ) -> NDArray[Any]:
        """Clean signals `(n_volumes, n_elements)` and give them the shape and type asked for."""
        from gpuroi.nilearn.signal_cleaning import clean

        self._say("transform", "Cleaning extracted signals")
        standardize = {True: "zscore_sample", False: None}.get(self.standardize, self.standardize)
        signals = clean(
            signals,
            runs=getattr(self, "runs", None),
            detrend=self.detrend,
            standardize=standardize,
            standardize_confounds=self.standardize_confounds,
            confounds=confounds,
            sample_mask=sample_mask,
            t_r=self.t_r,
            low_pass=self.low_pass,
            high_pass=self.high_pass,
            **self.clean_args_,
        )
        if ndim == 3 and not self._gives_tables():
            signals = signals.squeeze()
        target = None
        if self.dtype is not None and stored_dtype is not None:
            target = in_dtype(stored_dtype, self.dtype) or stored_dtype
        return signals if target is None else signals.astype(target, copy=False)

    def _gives_tables(self) -> bool:
        """Whether `set_output` was called: then signals of one volume stay a row."""
        return getattr(self, "_sklearn_output_config", None) is not None

    def _check_signals(self, X: Any) -> NDArray[Any]:
        """Return signals to be put into images: 1-D or 2-D, with as many columns as elements."""
        if hasattr(X, "to_numpy"):
            X = X.to_numpy().squeeze()
        signals = np.atleast_1d(np.asarray(X))
        if signals.ndim > 2:
            raise DataError(f"'inverse_transform' takes 1-D or 2-D signals, not {signals.ndim}-D ones")
        wanted = (self.n_elements_,) if signals.ndim == 1 else (signals.shape[0], self.n_elements_)
        if signals.shape != wanted:
            raise DataError(f"Input to 'inverse_transform' has wrong shape.\nExpected {wanted}.\nGot {signals.shape}.")
        if signals.dtype == bool:
            target = np.int32 if self.dtype is None else self.dtype
            exceptions.warn(f"Casting boolean input to {target}")
            signals = signals.astype(target)
        return signals

    def _say(self, method: str, text: str) -> None:
        if self.verbose:
            print(f"[{type(self).__name__}.{method}] {text}")

    def _described(self, imgs: Any) -> str:
        """Return what images are for a message: short at verbose 1."""
        if isinstance(imgs, list | tuple):
            shown = imgs if len(imgs) <= 3 or self.verbose > 2 else [imgs[0], imgs[-1]]
            return "[" + ", ".join(self._described(one) for one in shown) + "]"
        name = image_name(imgs) if is_image(imgs) or isinstance(imgs, str | os.PathLike) else type(imgs).__name__
        if not self.verbose or self.verbose == 1:
            return name if len(name) <= 40 else f"...{name[-37:]}"
        return f"{name}, shape {imgs.shape}, affine\n{imgs.affine}" if is_image(imgs) else name


def check_images(imgs: Any) -> None:
    """Raise TypeError unless they are volumes, DataError if a file is missing or an image has no voxels."""
    if not is_volume_input(imgs):
        raise TypeError(
            f"input should be a NiftiLike object or an iterable of NiftiLike object. Got: {type(imgs).__name__}"
        )
    for one in _leaves(imgs):
        if is_image(one) and 0 in one.shape:
            raise DataError(f"The image is empty. ({image_name(one)} has shape {one.shape})")
        if not is_image(one) and not Path(one).is_file():
            check_niimg(one)  # a pattern, or the error


def check_frames(imgs: Any, n_volumes: int) -> None:
    """Raise DimensionError if a list holds 4-D images: one run is transformed at a time."""
    if isinstance(imgs, list | tuple) and n_volumes != len(imgs):
        error = exceptions.DimensionError(4, 3)
        error.increment_stack_counter()
        raise error


def check_mask(mask: Any) -> Any:
    """Return the mask image, or raise DataError if it has nothing inside."""
    if not image_data(mask).any():
        raise DataError(f"The mask is invalid as it is empty: it masks all data. ({image_name(mask)})")
    return mask


def data_dtype(imgs: Any) -> np.dtype[Any]:
    """Return the type that the data of the first image have once scaled."""
    imgs = as_list(imgs)
    first = check_niimg(imgs[0] if isinstance(imgs, list | tuple) else imgs)
    dataobj = first.dataobj
    if (getattr(dataobj, "slope", 1.0), getattr(dataobj, "inter", 0.0)) != (1.0, 0.0):
        return np.dtype(np.float64)
    stored: np.dtype[Any] = np.dtype(getattr(dataobj, "dtype", None) or first.get_data_dtype())
    return stored


def in_dtype(found: np.dtype[Any], wanted: DTypeLike | None) -> np.dtype[Any] | None:
    """Return the type into which `found` is to be changed: "auto" is int32 for signed integers, else float32."""
    if wanted is None:
        return None
    if isinstance(wanted, str) and wanted == "auto":
        wanted = np.int32 if np.dtype(found).kind == "i" else np.float32
    target: np.dtype[Any] = np.dtype(wanted)
    return None if target == found else target


def _leaves(imgs: Any) -> list[Any]:
    if not isinstance(imgs, list | tuple):
        return [imgs]
    return [leaf for one in imgs for leaf in _leaves(as_list(one))]


def _memory(memory: Any) -> Any:
    """Return joblib's Memory for what was given: it, a folder, or None."""
    if hasattr(memory, "cache"):
        return memory
    if memory is not None and not isinstance(memory, str | os.PathLike):
        raise TypeError(
            f"'memory' must be of type(s): 'joblib.Memory, str, pathlib.Path, None'.\nGot: '{type(memory).__name__}'"
        )
    folder = None if memory is None else Path(memory).expanduser()
    if folder is not None and not folder.parent.exists():
        raise DataError(f"Given cache path parent directory doesn't exists, you gave '{folder.parent}'.")
    return Memory(location=None if folder is None else str(folder), verbose=0)


def _high_variance(imgs: Any) -> NDArray[np.float64]:
    from gpuroi.nilearn.signal_cleaning import high_variance_confounds

    data = image_data(check_niimg(imgs, ensure_ndim=4))
    return high_variance_confounds(data.reshape(-1, data.shape[-1]).T)
