"""Parcellations as a scikit-learn estimator: learnt from series, then used to compress and to expand them."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import Backend, backend_of, get_backend
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.ops.volumes import as_float
from gpuroi.parcels.hierarchical_kmeans import hierarchical_kmeans
from gpuroi.parcels.kmeans import kmeans
from gpuroi.parcels.numbering import numbered_by_first, pieces
from gpuroi.parcels.quality import explained_variance
from gpuroi.parcels.rena import rena
from gpuroi.parcels.scikit_learn import need_scikit_learn
from gpuroi.parcels.series import Series, check_series, is_images, read_series, standardized
from gpuroi.parcels.ward import ward_tree

need_scikit_learn("Parcellation")  # before the import below, which says less

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.backends.base import Array

__all__ = ["Parcellation"]

_METHODS = ("ward", "kmeans", "rena", "hierarchical_kmeans")
_SPATIAL = ("ward", "rena")


class Parcellation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Divide a brain, or any other domain, into parcels whose elements have similar series.

    Parameters
    ----------
    method : {"ward", "kmeans", "rena", "hierarchical_kmeans"}, default "ward"
        "ward" and "rena" merge neighbours, so that parcels are connected (as far as the mask is); the others look at
        values alone. "rena" is the fastest, "ward" keeps the most variance of the connected ones.
    n_parcels : int, default 100
        1 to the number of elements.
    mask : image, path or VoxelGrid, optional
        For images: non-zero inside. None: the voxels that are finite and vary over time in every image.
    domain : VoxelGrid, ParcelGraph or SurfaceMesh, optional
        For arrays: where the columns lie. "kmeans" and "hierarchical_kmeans" do without.
    connectivity : {6, 18, 26}, default 6
        Neighbours of a voxel, for images. A `domain` has its own.
    fwhm_mm : float or three, optional
        Smooth before learning, within the mask. `transform` never smooths.
    standardize : bool, default False
        Learn from series of mean 0 and standard deviation 1 in each image, so that parcels follow the shape of
        the series alone.
    split_pieces : bool, default False
        Make a parcel of each connected piece; there may then be more than `n_parcels`.
    n_init : int, default 1
        Runs of K-means, the best of which counts.
    seed : int, default 0
        Of K-means; the others draw nothing.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default "auto"
        Where images are smoothed and K-means runs; arrays on a device stay there.

    Attributes
    ----------
    labels_ : int32 array, shape (n_elements,)
        Parcel of each element, 1..n_parcels_, numbered by first elements.
    labels_img_ : nibabel image, int32
        The same in the volume, 0 outside; for voxels whose affine is known.
    n_parcels_ : int
    sizes_ : int64 array, shape (n_parcels_,)
        Elements of each parcel.
    domain_ : domain, or None
    tree_ : WardTree
        For "ward": cut it at any number of parcels, or call `with_n_parcels`.
    n_features_in_ : int
        Elements.

    Notes
    -----
    Labels are the same on every device and for every number of threads.

    References
    ----------
    .. [1] Thirion B, Varoquaux G, Dohmatob E, Poline JB (2014). Which fMRI clustering gives good brain parcellations?
       Front Neurosci 8, 167. doi:10.3389/fnins.2014.00167

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> data = np.repeat(rng.standard_normal((20, 3)), 4, axis=1) + 0.1 * rng.standard_normal((20, 12))
    >>> parcels = Parcellation("ward", n_parcels=3, domain=VoxelGrid(np.ones((1, 1, 12)))).fit(data)
    >>> parcels.labels_.tolist()
    [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    >>> parcels.inverse_transform(parcels.transform(data)).shape, parcels.score(data) > 0.95
    ((20, 12), True)
    """

    def __init__(
        self,
        method: str = "ward",
        n_parcels: int = 100,
        *,
        mask: Any = None,
        domain: Any = None,
        connectivity: int = 6,
        fwhm_mm: Any = None,
        standardize: bool = False,
        split_pieces: bool = False,
        n_init: int = 1,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.method = method
        self.n_parcels = n_parcels
        self.mask = mask
        self.domain = domain
        self.connectivity = connectivity
        self.fwhm_mm = fwhm_mm
        self.standardize = standardize
        self.split_pieces = split_pieces
        self.n_init = n_init
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any = None) -> Parcellation:
        """Learn the parcels.

        Parameters
        ----------
        X : image, path, list of these, or array of shape (n_samples, n_elements)
            Volumes of several images count as samples of one. NumPy or CuPy.
        y : ignored

        Returns
        -------
        Parcellation
            Itself.

        Raises
        ------
        UsageError
            An unknown method; more parcels than elements; an array without the `domain` that the method needs.
        DataError
            Series that are constant or not finite; fewer distinct series than parcels; shapes that do not fit.
        GridError
            A mask or an image on another grid.
        """
        self.check_settings()
        if is_images(X):
            backend = get_backend(self.device)
            series = read_series(
                X, self.mask, connectivity=self.connectivity, backend=backend, fwhm_mm=self.fwhm_mm, checked=True
            )
            return self.fit_series(series)
        if self.fwhm_mm is not None:
            raise UsageError("fwhm_mm is for images, but an array was given", "smooth before, with gpuroi.smooth")
        values = _as_matrix(X)
        self._check_domain(values.shape[1])
        check_series(_host(values), "X", self.domain)
        return self._learn(values, (slice(0, len(values)),), self.domain)

    def fit_series(self, series: Series) -> Parcellation:
        """Learn the parcels from what `gpuroi.parcels.series.read_series` has read, smoothed and checked.

        Parameters
        ----------
        series : Series

        Returns
        -------
        Parcellation
            Itself.
        """
        self.check_settings()
        self._like = series.like
        return self._learn(series.values, series.runs, series.domain)

    def check_settings(self) -> Parcellation:
        """Raise a `UsageError` now for what `fit` would refuse whatever the data, and forget an earlier fit.

        Returns
        -------
        Parcellation
            Itself.
        """
        if self.method not in _METHODS:
            raise UsageError(f'method is "{self.method}"', f"use one of: {', '.join(_METHODS)}")
        if not isinstance(self.n_parcels, (int, np.integer)) or self.n_parcels < 1:
            raise UsageError(f"n_parcels is {self.n_parcels!r}", "use a whole number of 1 or more")
        if self.n_init < 1:
            raise UsageError(f"n_init is {self.n_init}", "use 1 or more")
        for name in ("_like", "tree_", "labels_img_"):
            if hasattr(self, name):
                delattr(self, name)
        return self

    def with_n_parcels(self, n_parcels: int) -> Parcellation:
        """Return the parcellation into another number of parcels, from the tree that `fit` has made.

        Parameters
        ----------
        n_parcels : int

        Returns
        -------
        Parcellation
            Fitted; it shares the tree and the domain with this one, which stays as it is.

        Raises
        ------
        UsageError
            For any method but "ward", which alone makes a tree; a number outside 1 to n_elements.
        """
        self._check_fitted()
        if not hasattr(self, "tree_"):
            raise UsageError(f'method "{self.method}" makes no tree to cut', 'use method "ward", or fit again')
        other = copy.copy(self)
        other.n_parcels = n_parcels
        other._label(self.tree_.cut(n_parcels))
        return other

    def transform(self, X: Any) -> Array:
        """Return the mean of the elements of each parcel.

        Parameters
        ----------
        X : image, path, list of these, or array of shape (n_samples, n_elements)

        Returns
        -------
        float64 array, shape (n_samples, n_parcels_)
            Column i is parcel i + 1; NaN where an element of it is. On the device of an array.
        """
        self._check_fitted()
        values = self._values(X)
        backend = backend_of(values)
        with backend.activate():
            sums, counts = backend.label_sums(values, backend.asarray(self.labels_), self.n_parcels_)
            return sums / counts

    def inverse_transform(self, X: Any) -> Any:
        """Give every element the value of its parcel.

        Parameters
        ----------
        X : array, shape (n_samples, n_parcels_) or (n_parcels_,)

        Returns
        -------
        array, shape (n_samples, n_elements) or (n_elements,)
            Or, where images were fitted, a nibabel image: 4-D, or 3-D; float32, 0 outside the mask.
        """
        self._check_fitted()
        backend = backend_of(X)
        signals = as_float(backend, X, "X")
        if signals.ndim not in (1, 2) or signals.shape[-1] != self.n_parcels_:
            raise DataError(
                f"X has shape {tuple(signals.shape)}: expected (n_samples, {self.n_parcels_}), a column for each parcel"
            )
        with backend.activate():
            values = backend.xp.take(signals, backend.asarray(self.labels_ - 1), axis=-1)
        return self._image(_host(values)) if hasattr(self, "_like") else values

    def score(self, X: Any, y: Any = None) -> float:
        """Return the share of the variance between elements that the parcels keep: 0 to 1.

        Parameters
        ----------
        X : as for `transform`
        y : ignored

        Returns
        -------
        float
            See `gpuroi.parcels.explained_variance`.
        """
        self._check_fitted()
        return explained_variance(self._values(X), self.labels_)

    @property
    def _n_features_out(self) -> int:
        return self.n_parcels_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "labels_")

    def _check_domain(self, v: int) -> None:
        if self.domain is None:
            if self.method in _SPATIAL or self.split_pieces:
                raise UsageError(
                    f'method "{self.method}" has to know which elements are neighbours',
                    "pass domain=VoxelGrid(mask, affine), or fit images",
                )
        elif self.domain.n_elements != v:
            raise DataError(
                f"X has {v} columns, but the domain {self.domain.name} has {self.domain.n_elements} elements"
            )

    def _learn(self, values: Array, runs: tuple[slice, ...], domain: Any) -> Parcellation:
        v = values.shape[1]
        if self.n_parcels > v:
            raise UsageError(f"{self.n_parcels} parcels asked for, but there are {v} elements", f"ask for 1 to {v}")
        if self.standardize:
            values = standardized(_host(values), runs)
        self.domain_, self.n_features_in_ = domain, v
        self._label(self._clusters(values))
        return self

    def _clusters(self, values: Array) -> NDArray[np.int32]:
        """Return clusters from 0, in any order."""
        if self.method == "ward":
            self.tree_ = ward_tree(values, self.domain_.graph)
            return self.tree_.cut(int(self.n_parcels))
        if self.method == "rena":
            return rena(values, self.domain_.graph, int(self.n_parcels))
        backend = backend_of(values)
        if backend.name == "cpu":
            backend = get_backend(self.device)
            values = backend.asarray(values)
        if self.method == "kmeans":
            return kmeans(values, int(self.n_parcels), n_init=self.n_init, seed=self.seed).labels
        return hierarchical_kmeans(values, int(self.n_parcels), n_init=self.n_init, seed=self.seed)

    def _label(self, clusters: NDArray[np.int32]) -> None:
        """Number parcels from 1, and check that there are as many as asked for."""
        found = int(clusters.max()) + 1
        if found < self.n_parcels:
            raise DataError(
                f"{self.n_parcels} parcels asked for, but the data could be divided into {found} only: "
                "too many elements have the same values",
                f"ask for {found} or fewer",
            )
        if found > self.n_parcels:
            warnings.warn(
                f"{found} parcels instead of {self.n_parcels}: the mask is in {_n_pieces(self.domain_)} pieces that do "
                "not touch",
                UserWarning,
                stacklevel=4,
            )
        labels = pieces(clusters, self.domain_.graph) if self.split_pieces else numbered_by_first(clusters)
        self.labels_ = labels + np.int32(1)
        self.n_parcels_ = int(self.labels_.max())
        self.sizes_ = np.bincount(self.labels_)[1:]
        if isinstance(self.domain_, VoxelGrid) and self.domain_.affine is not None:
            self.labels_img_ = self._image(self.labels_)

    def _image(self, values: NDArray[Any]) -> Any:
        """Return values of the elements as an image."""
        import nibabel

        volumes = self.domain_.to_volume(values)
        dtype = np.int32 if values.dtype.kind == "i" else np.float32
        axes = (1, 2, 3, 0) if volumes.ndim == 4 else (0, 1, 2)
        make: Any = nibabel.Nifti1Image
        return make(volumes.transpose(axes).astype(dtype, copy=False), self.domain_.affine)

    def _values(self, X: Any) -> Array:
        if is_images(X):
            if not isinstance(self.domain_, VoxelGrid):
                raise UsageError("images were given, but the parcels are not made of voxels", "pass an array")
            backend = get_backend(self.device)
            series = read_series(X, self.domain_, connectivity=self.domain_.connectivity, backend=backend)
            return series.values
        values = _as_matrix(X)
        if values.shape[1] != self.n_features_in_:
            raise DataError(f"X has {values.shape[1]} columns, but the parcels were learnt from {self.n_features_in_}")
        return values

    def _check_fitted(self) -> None:
        if not hasattr(self, "labels_"):
            raise NotFittedError("This Parcellation instance is not fitted yet: call fit first.")


def _as_matrix(X: Any) -> Array:
    """Return an array (n, v) of floats, on its device, in C order."""
    backend: Backend = backend_of(X) if type(X).__module__.startswith("cupy") else get_backend("cpu")
    values = as_float(backend, X, "X")
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"X has shape {tuple(values.shape)}: expected (n_samples, n_elements)")
    return backend.xp.ascontiguousarray(values)


def _host(values: Array) -> NDArray[Any]:
    return np.asarray(backend_of(values).to_numpy(values))


def _n_pieces(domain: Any) -> int:
    return int(pieces(np.zeros(domain.n_elements, np.int8), domain.graph).max()) + 1
