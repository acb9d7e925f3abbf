"""The masker inside a parcellation: one mask for all images, and the series of each below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from gpuroi.backends.graph import Graph
from gpuroi.domains import VoxelGrid
from gpuroi.domains.domain import edge_graph
from gpuroi.errors import DataError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.masking import intersect_masks
from gpuroi.nilearn.niimg import image_data, is_surface
from gpuroi.nilearn.surface_images import surface_data
from gpuroi.nilearn.surface_masks import load_surface_mask, surface_series, unmask_surface

if TYPE_CHECKING:
    from gpuroi.nilearn.volume_masker import NiftiMasker

__all__ = ["SurfaceSignals", "embedded_masker", "neighbour_graph", "neighbour_matrix"]

_SHARED = (
    "detrend", "dtype", "high_pass", "low_pass", "mask_args", "mask_strategy", "smoothing_fwhm", "standardize",
    "standardize_confounds", "t_r", "target_affine", "target_shape",
)  # fmt: skip
_VOLUMES_ONLY = ("mask_strategy", "target_affine", "target_shape")
_CLEANING = ("detrend", "high_pass", "low_pass", "smoothing_fwhm", "standardize", "standardize_confounds", "t_r")


class SurfaceSignals:
    """Turn surface images into signals of the vertices of a mask, and back.

    Parameters
    ----------
    mask_img : SurfaceImage, optional
        None: all vertices, once an image is seen.
    smoothing_fwhm, standardize, standardize_confounds, detrend, low_pass, high_pass, t_r
        As those of `NiftiMasker`.

    Attributes
    ----------
    mask_img_ : SurfaceImage
        Parts of bool.
    n_elements_ : int
        Vertices inside.
    """

    def __init__(self, mask_img: Any = None, **cleaning: Any) -> None:
        self.mask_img = mask_img
        self.cleaning = cleaning

    def fit(self, imgs: list[Any]) -> SurfaceSignals:
        """Make or load the mask."""
        if self.mask_img is None:
            first = imgs[0][0] if isinstance(imgs[0], (list, tuple)) else imgs[0]
            everywhere = {name: np.ones(len(part), bool) for name, part in first.data.parts.items()}
            self.mask_img_ = type(first)(mesh=first.mesh, data=everywhere)
        else:
            self.mask_img_ = load_surface_mask(self.mask_img, lambda values: values != 0)
        self.n_elements_ = int(surface_data(self.mask_img_).sum())
        if not self.n_elements_:
            raise DataError("The mask is invalid as it is empty: it masks all data.")
        return self

    def transform(self, img: Any, confounds: Any = None) -> NDArray[Any]:
        """Return cleaned signals (n, v) of an image, or of a list of images that follow each other."""
        images = list(img) if isinstance(img, (list, tuple)) else [img]
        values = surface_series(images, self.mask_img_, fwhm=self.cleaning.get("smoothing_fwhm"))
        return self.clean(values, confounds)

    def clean(self, values: NDArray[Any], confounds: Any) -> NDArray[Any]:
        """Clean signals (n, v) as the parameters say."""
        from gpuroi.nilearn.signal_cleaning import clean

        how = {name: value for name, value in self.cleaning.items() if name != "smoothing_fwhm"}
        return clean(values, confounds=confounds, **how)

    def inverse_transform(self, signals: NDArray[Any]) -> Any:
        """Put signals (v,) or (n, v) back onto the surface."""
        return unmask_surface(signals, self.mask_img_)


def embedded_masker(estimator: Any, imgs: list[Any]) -> Any:
    """Return the fitted masker of a parcellation.

    Parameters
    ----------
    estimator : Parcellations
        Its `mask` is an image, a masker (whose parameters then count, with a warning where they differ), or None.
    imgs : list
        Images to make a mask of, one (list of) for each run.

    Returns
    -------
    NiftiMasker or SurfaceSignals
    """
    from gpuroi.nilearn.volume_masker import NiftiMasker

    mask = estimator.mask
    given = {name: getattr(estimator, name) for name in _SHARED}
    used = dict(given, mask_img=mask)
    if hasattr(mask, "get_params"):
        theirs = mask.get_params(deep=False)
        used = {name: theirs[name] for name in (*_SHARED, "mask_img", *_volume_only(theirs)) if name in theirs}
        _warn_of_conflicts(used, given)
        used["mask_img"] = getattr(mask, "mask_img_", used.get("mask_img"))
    used["standardize"] = {False: None, True: "zscore_sample"}.get(used["standardize"], used["standardize"])
    on_surface = is_surface(used["mask_img"]) or "Surface" in type(mask).__name__
    if on_surface or (mask is None and any(_holds_surface(img) for img in imgs)):
        _warn_of_ignored(estimator)
        cleaning = {name: used[name] for name in _CLEANING if name in used}
        return SurfaceSignals(used["mask_img"], **cleaning).fit(imgs)
    if used["dtype"] not in (None, "auto") and np.dtype(used["dtype"]).kind != "f":
        used["dtype"] = None  # integers would leave nothing to learn from
    masker = NiftiMasker(**used, verbose=max(0, int(estimator.verbose) - 1))
    if masker.mask_img is None:
        masker.mask_img = _common_mask(masker, imgs)
    return masker.fit()


def neighbour_graph(mask_img: Any) -> Graph:
    """Return which voxels (6 neighbours) or vertices of a mask touch."""
    if not is_surface(mask_img):
        return VoxelGrid(image_data(mask_img) != 0).graph
    low, high, start = [], [], 0
    for name, part in mask_img.mesh.parts.items():
        inside = np.asarray(mask_img.data.parts[name]).reshape(-1) != 0
        number = np.cumsum(inside) - 1 + start
        faces = np.asarray(part.faces)
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        edges = np.unique(edges[inside[edges].all(axis=1)], axis=0)
        low.append(number[edges[:, 0]])
        high.append(number[edges[:, 1]])
        start += int(inside.sum())
    return edge_graph(np.concatenate(low).astype(np.int64), np.concatenate(high).astype(np.int64), np.ones(start))


def neighbour_matrix(graph: Graph) -> coo_matrix:
    """Return a graph as nilearn's `connectivity_`: 1 for neighbours, and on the diagonal."""
    v = graph.n_elements
    itself = np.arange(v)
    rows = np.concatenate([np.repeat(itself, np.diff(graph.indptr)), itself])
    columns = np.concatenate([graph.indices.astype(np.int64), itself])
    return coo_matrix((np.ones(len(rows), np.int64), (rows, columns)), shape=(v, v))


def _volume_only(theirs: dict[str, Any]) -> list[str]:
    return [name for name in ("runs", "high_variance_confounds", "clean_args") if name in theirs]


def _holds_surface(img: Any) -> bool:
    return any(map(is_surface, img)) if isinstance(img, (list, tuple)) else is_surface(img)


def _common_mask(masker: NiftiMasker, imgs: list[Any]) -> Any:
    """Return the voxels that lie in half of the masks of the images."""
    masks = []
    for img in imgs:
        one = type(masker)(**masker.get_params())
        one.target_affine = one.target_shape = None  # the common mask is resampled, once
        masks.append(one.fit(img).mask_img_)
    if len(masks) == 1:
        return masks[0]
    how = masker.mask_args or {}
    return intersect_masks(masks, threshold=how.get("threshold", 0.5), connected=how.get("connected", True))


def _warn_of_conflicts(used: dict[str, Any], given: dict[str, Any]) -> None:
    different = [name for name in sorted(given) if name in used and np.any(used[name] != given[name])]
    if different:
        lines = "".join(
            f"Parameter {name} :\n    Masker parameter {used[name]} - overriding estimator parameter {given[name]}\n"
            for name in different
        )
        exceptions.warn(f"Overriding provided-default estimator parameters with provided masker parameters :\n{lines}")


def _warn_of_ignored(estimator: Any) -> None:
    defaults: dict[str, Any] = {"mask_strategy": "epi", "target_affine": None, "target_shape": None}
    ignored = [name for name in _VOLUMES_ONLY if np.any(getattr(estimator, name) != defaults[name])]
    if ignored:
        exceptions.warn(
            "The following parameters are not relevant when the input images and mask are SurfaceImages: "
            f"{', '.join(ignored)}. They will be ignored."
        )
