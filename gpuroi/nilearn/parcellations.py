"""nilearn's Parcellations: parcels learnt from images, and images in terms of them."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types, n_threads_of
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.labels_masker import NiftiLabelsMasker
from gpuroi.nilearn.masker import in_dtype
from gpuroi.nilearn.niimg import check_niimg, image_data, is_image, is_surface
from gpuroi.nilearn.parcellation_learning import METHODS, clusters, explained_by, group_components, reduced_series
from gpuroi.nilearn.parcellation_masker import SurfaceSignals, embedded_masker, neighbour_graph, neighbour_matrix
from gpuroi.nilearn.scikit_learn import BaseEstimator, InputTags, TransformerMixin, check_is_fitted
from gpuroi.nilearn.surface_masks import surface_series

__all__ = ["Parcellations"]

_N_COMPONENTS = 200
_CHECKED = (
    "detrend", "high_pass", "low_pass", "memory_level", "n_jobs", "random_state", "smoothing_fwhm",
    "standardize_confounds", "t_r", "target_affine", "target_shape", "verbose",
)  # fmt: skip


@dataclass
class _Tags(InputTags):  # type: ignore[misc]
    """scikit-learn's tags of an input, and those by which nilearn tells what its estimators take."""

    niimg_like: bool = True
    surf_img: bool = True


class Parcellations(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Learn parcels from images, and describe images by them; as `nilearn.regions.Parcellations`.

    Parameters
    ----------
    method : {'kmeans', 'ward', 'complete', 'average', 'rena', 'hierarchical_kmeans'}
        'ward', 'complete', 'average' and 'rena' merge neighbours; the others look at values alone.
    n_parcels : int, default=50
    random_state : int, RandomState or None, default=0
        Of the decomposition and of K-means.
    mask : path, nibabel image, SurfaceImage, masker or None, default=None
        A masker of ours or of nilearn: its parameters count. None: made from the images (surfaces: all vertices).
    smoothing_fwhm : float or None, default=4.0
        Full width at half maximum, mm.
    standardize : {"zscore_sample", "psc", True, False, None}, default=False
    standardize_confounds : bool, default=True
    detrend : bool, default=False
    low_pass, high_pass : float or None, default=None
        Hz.
    t_r : float or None, default=None
        Seconds between volumes.
    target_affine, target_shape : default=None
        Grid of mask and images.
    mask_strategy : str, default='epi'
    mask_args : dict or None, default=None
    scaling : bool, default=False
        Kept: the labels do not depend on it.
    n_iter : int, default=10
        Rounds of ReNA.
    memory, memory_level, n_jobs, verbose
        `memory` is kept, not used: nothing is cached. Results do not depend on any of them.

    Attributes
    ----------
    labels_img_ : nibabel image or SurfaceImage
        Parcels 1, 2, ..., 0 outside the mask.
    n_elements_ : int
        Parcels.
    masker_, mask_img_
        What masks the images.
    connectivity_ : scipy.sparse.coo_matrix
        Neighbours, for 'ward', 'complete', 'average'.
    components_ : array, shape (n_components, n_voxels)
    components_img_ : nibabel image or SurfaceImage
    variance_ : array, shape (n_components,)

    Notes
    -----
    What is learnt from are, as in nilearn, up to 200 principal components of all images, each of length 1. 'ward',
    'complete' and 'average' give nilearn's labels. What differs from nilearn 0.14.1:

    * 'kmeans' and 'hierarchical_kmeans' run Lloyd's algorithm on all voxels, on the device that GPUROI_DEVICE names;
      nilearn's are those of scikit-learn's MiniBatchKMeans, which sees a sample at a time. Labels differ, the inertia
      is lower, and they are the same for any number of threads.
    * 'hierarchical_kmeans' gives as many parcels as asked for; nilearn's, no more than there are components.
    * 'rena' makes the shortest joins in its last round; see `gpuroi.parcels.rena`.
    * Components of rounding errors alone are left out: of standardized or detrended series nilearn's labels depend on
      them, and differ from ours and between machines.
    * More parcels than voxels are an error for every method. `standardize_confounds` counts in `transform` too.
    * `maps_masker_` does not exist.

    Examples
    --------
    >>> import nibabel
    >>> rng = np.random.default_rng(0)
    >>> runs = np.repeat(rng.standard_normal((2, 6, 6, 20)), 4, axis=0).astype(np.float32)
    >>> mask = nibabel.Nifti1Image(np.ones((8, 6, 6), np.uint8), np.eye(4))
    >>> parcels = Parcellations("ward", n_parcels=4, mask=mask, smoothing_fwhm=None)
    >>> parcels.fit_transform(nibabel.Nifti1Image(runs, np.eye(4))).shape
    (20, 4)
    """

    VALID_METHODS: ClassVar[tuple[str, ...]] = METHODS

    def __init__(
        self,
        method: str | None = None,
        n_parcels: int = 50,
        random_state: Any = 0,
        mask: Any = None,
        smoothing_fwhm: float | None = 4.0,
        standardize: Any = False,
        standardize_confounds: bool = True,
        detrend: bool = False,
        low_pass: float | None = None,
        high_pass: float | None = None,
        t_r: float | None = None,
        target_affine: Any = None,
        target_shape: Any = None,
        mask_strategy: str = "epi",
        mask_args: dict[str, Any] | None = None,
        scaling: bool = False,
        n_iter: int = 10,
        memory: Any = None,
        memory_level: int = 0,
        n_jobs: int = 1,
        verbose: int = 0,
    ) -> None:
        self.method = method
        self.n_parcels = n_parcels
        self.random_state = random_state
        self.mask = mask
        self.smoothing_fwhm = smoothing_fwhm
        self.standardize = standardize
        self.standardize_confounds = standardize_confounds
        self.detrend = detrend
        self.low_pass = low_pass
        self.high_pass = high_pass
        self.t_r = t_r
        self.target_affine = target_affine
        self.target_shape = target_shape
        self.mask_strategy = mask_strategy
        self.mask_args = mask_args
        self.scaling = scaling
        self.n_iter = n_iter
        self.memory = memory
        self.memory_level = memory_level
        self.n_jobs = n_jobs
        self.verbose = verbose

    dtype = None  # of the signals: nilearn has no parameter for it here

    def fit(self, imgs: Any, y: Any = None, confounds: Any = None) -> Parcellations:
        """Learn the parcels.

        Parameters
        ----------
        imgs : path, nibabel image, SurfaceImage, or list of these
            Each image of a list is a run.
        y : None
            Not used.
        confounds : list of arrays, DataFrames or paths, optional
            One for each image; regressed out.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            Parameters of another type.
        UsageError
            No method, or an unknown one; more parcels than voxels.
        DataError
            No images; another number of confounds than of images.
        """
        del y
        check_types(**{name: getattr(self, name) for name in _CHECKED})
        n_threads_of(self.n_jobs)
        runs = _runs(imgs)
        if confounds is not None and len(confounds) != len(runs):
            raise DataError(
                f"Number of confounds (len(confounds)={len(confounds)}) must match number of images "
                f"(len(imgs)={len(runs)})."
            )
        _check_mask(self.mask)
        self._check_method()
        self.masker_ = embedded_masker(self, runs)
        self.mask_img_ = self.masker_.mask_img_
        self._say("Loading data")
        blocks = []
        for img, confound in zip(runs, confounds or [None] * len(runs), strict=True):
            series = self._series(img, confound)
            blocks.append(reduced_series(series, _N_COMPONENTS, self.random_state))
        self.components_, self.variance_ = group_components(blocks, _N_COMPONENTS, self.random_state)
        self.components_img_ = self.masker_.inverse_transform(self.components_)
        self._learn()
        return self

    def transform(self, imgs: Any, confounds: Any = None) -> Any:
        """Return the mean signal of each parcel.

        Parameters
        ----------
        imgs : path, nibabel image, SurfaceImage, or list of these
        confounds : array, DataFrame, path, or list of these, optional
            One for each image.

        Returns
        -------
        array, shape (n_volumes, n_parcels)
            A list of them for a list of several images.
        """
        check_is_fitted(self)
        runs = list(imgs) if isinstance(imgs, (list, tuple)) else [imgs]
        beside = confounds
        if confounds is None:
            beside = [None] * len(runs)
        elif not isinstance(confounds, (list, tuple)):
            beside = [confounds]
        if len(beside) != len(runs):
            raise DataError("Number of confounds given does not match with the given number of images.")
        on_surface = isinstance(self.masker_, SurfaceSignals)
        extract = self._surface_signals if on_surface else self._volume_signals
        signals = [extract(img, confound) for img, confound in zip(runs, beside, strict=True)]
        return signals[0] if len(signals) == 1 else signals

    def fit_transform(self, imgs: Any, y: Any = None, confounds: Any = None) -> Any:
        """Learn the parcels, and return their signals; see `fit` and `transform`."""
        del y
        return self.fit(imgs, confounds=confounds).transform(imgs, confounds)

    def inverse_transform(self, signals: Any) -> Any:
        """Give every voxel or vertex the signal of its parcel.

        Parameters
        ----------
        signals : array, shape (n_volumes, n_parcels), or list of these

        Returns
        -------
        nibabel image or SurfaceImage
            A list of them for a list of several arrays.
        """
        check_is_fitted(self)
        several = list(signals) if isinstance(signals, (list, tuple)) else [signals]
        images = [self._image(self._checked_signals(each)) for each in several]
        return images[0] if len(images) == 1 else images

    def score(self, imgs: Any, y: Any = None, confounds: Any = None, per_component: bool = False) -> Any:
        """Return the share of the variance of images that the components explain.

        Parameters
        ----------
        imgs, confounds
            As for `fit`.
        y : None
            Not used.
        per_component : bool, default=False
            One number for each component.

        Returns
        -------
        float, or array of shape (n_components,)
        """
        del y
        check_is_fitted(self)
        runs = _runs(imgs)
        beside = confounds or [None] * len(runs)
        pairs = zip(runs, beside, strict=True)
        blocks = [
            reduced_series(series, len(series), self.random_state) for series in (self._series(*p) for p in pairs)
        ]
        return explained_by(np.concatenate(blocks), self.components_, per_component=per_component)

    def set_output(self, *, transform: Any = None) -> Any:
        """Not here, as in nilearn: raises NotImplementedError."""
        raise NotImplementedError("signals of parcels come as arrays")

    @property
    def n_elements_(self) -> int:
        """Number of parcels."""
        return int(self._n_found)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "labels_img_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = _Tags()
        return tags

    def _check_method(self) -> None:
        if self.method is None:
            raise UsageError(f"Parcellation method is specified as None. Please select one of the method in {METHODS}")
        if self.method not in METHODS:
            raise UsageError(f"'method' must be one of {METHODS}.\n'{self.method}' was provided.")

    def _series(self, img: Any, confound: Any) -> NDArray[Any]:
        """Return the masked, smoothed and cleaned series of a run, (n, v)."""
        beside = [confound] if confound is not None and not isinstance(confound, list) else confound
        return np.atleast_2d(self.masker_.transform(img, confounds=beside))

    def _learn(self) -> None:
        self._say(f"computing {self.method}")
        v = self.components_.shape[1]
        if not 1 <= self.n_parcels <= v:
            raise UsageError(f"n_parcels is {self.n_parcels}, but the mask holds {v} elements", f"ask for 1 to {v}")
        if self.n_iter < 1:
            raise UsageError(f"n_iter should be an integer greater than 0. {self.n_iter} was provided.")
        graph = neighbour_graph(self.mask_img_)
        found = clusters(
            self.components_,
            str(self.method),
            int(self.n_parcels),
            graph,
            random_state=self.random_state,
            n_iter=int(self.n_iter),
        )
        if self.method in ("ward", "complete", "average"):
            self.connectivity_ = neighbour_matrix(graph)
        self._n_found = len(np.unique(found))
        if self._n_found != self.n_parcels:
            exceptions.warn("The number of generated labels does not match the requested number of parcels.")
        self._labels = found + np.int32(1)
        self.labels_img_ = self.masker_.inverse_transform(self._labels)

    def _volume_signals(self, img: Any, confound: Any) -> NDArray[Any]:
        masker = NiftiLabelsMasker(
            self.labels_img_,
            mask_img=self.mask_img_,
            resampling_target="data",
            smoothing_fwhm=self.smoothing_fwhm,
            standardize=_without_booleans(self.standardize),
            standardize_confounds=self.standardize_confounds,
            detrend=self.detrend,
            low_pass=self.low_pass,
            high_pass=self.high_pass,
            t_r=self.t_r,
            verbose=self.verbose,
        )
        image = img if isinstance(img, (list, tuple)) else check_niimg(img, atleast_4d=True)
        return np.asarray(masker.fit_transform(image, confounds=confound))

    def _surface_signals(self, img: Any, confound: Any) -> NDArray[Any]:
        masker = self.masker_
        cleaner = SurfaceSignals(
            masker.mask_img_,
            smoothing_fwhm=self.smoothing_fwhm,
            standardize=_without_booleans(self.standardize),
            standardize_confounds=self.standardize_confounds,
            detrend=self.detrend,
            low_pass=self.low_pass,
            high_pass=self.high_pass,
            t_r=self.t_r,
        )
        values = surface_series([img], masker.mask_img_, fwhm=self.smoothing_fwhm)
        sums, counts = get_backend("cpu").label_sums(values, self._labels, int(self._labels.max()))
        return cleaner.clean((sums / counts).astype(values.dtype), confound)

    def _image(self, signals: NDArray[Any]) -> Any:
        values = signals[..., self._labels - 1]
        if isinstance(self.masker_, SurfaceSignals):
            return self.masker_.inverse_transform(values)
        image = self.masker_.inverse_transform(values)
        target = in_dtype(signals.dtype, self.dtype) or signals.dtype
        image = new_img_like(image, image_data(image).astype(target, copy=False))
        image.set_data_dtype(target)
        return image

    def _checked_signals(self, signals: Any) -> NDArray[Any]:
        on_surface = isinstance(self.masker_, SurfaceSignals)
        given = np.atleast_2d(signals) if on_surface else np.atleast_1d(signals)
        if given.shape[-1] != self.n_elements_ or given.ndim > 2:
            expected = (self.n_elements_,) if given.ndim == 1 else (given.shape[0], self.n_elements_)
            wrong = "Input to 'inverse_transform' has wrong shape.\n"
            if on_surface:
                raise DataError(f"{wrong}Last dimension should be {self.n_elements_}.\nGot {given.shape[-1]}.")
            raise DataError(f"{wrong}Expected {expected}.\nGot {given.shape}.")
        if given.dtype == bool:
            exceptions.warn("Casting boolean input to int32")
            given = given.astype(np.int32)
        return given

    def _say(self, text: str) -> None:
        if self.verbose and self.verbose > 0:
            print(f"[{type(self).__name__}.fit] {text}")


def _runs(imgs: Any) -> list[Any]:
    """Return the images as a list, one entry a run."""
    if isinstance(imgs, str) and glob.has_magic(imgs):
        imgs = sorted(glob.glob(os.path.expanduser(imgs))) or imgs  # noqa: PTH111, PTH207 (patterns)
    runs = list(imgs) if hasattr(imgs, "__iter__") and not isinstance(imgs, (str, os.PathLike)) else [imgs]
    if is_image(imgs) or is_surface(imgs):
        runs = [imgs]
    if not runs:
        raise DataError("Need one or more Niimg-like or SurfaceImage objects as input, an empty list was given.")
    return runs


def _check_mask(mask: Any) -> None:
    is_masker = hasattr(mask, "get_params") and hasattr(mask, "transform")
    if not (mask is None or is_masker or isinstance(mask, (str, os.PathLike)) or is_image(mask) or is_surface(mask)):
        raise TypeError(
            "'mask' must be of type(s): 'Niimg-like, NiftiMasker, SurfaceImage, SurfaceMasker'.\n"
            f"Got: '{type(mask).__name__}'"
        )


def _without_booleans(standardize: Any) -> Any:
    """Return the words for True and False, which are nilearn's old ones."""
    if standardize is True:
        return "zscore_sample"
    return None if standardize is False else standardize
