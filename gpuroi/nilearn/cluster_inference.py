"""nilearn's cluster_level_inference: how much of each cluster is active, at least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.inference.true_discoveries import hommel_value, true_discovery_proportions
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.background_mask import background_mask
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.mesh_clusters import MeshLabeller
from gpuroi.nilearn.niimg import check_niimg_3d, finite_data, image_data, image_name, is_surface
from gpuroi.nilearn.same_grid import same_grid
from gpuroi.nilearn.surface_images import check_same_mesh
from gpuroi.ops import label

__all__ = ["cluster_level_inference"]

_NEXT_THRESHOLD = 3.090232306167813  # z of p = 0.001, one-sided

Labeller = Callable[[NDArray[np.bool_]], tuple[NDArray[np.int32], int]]


def cluster_level_inference(
    stat_img: Any,
    mask_img: Any = None,
    threshold: float | Sequence[float] = 3.0,
    alpha: float = 0.05,
    verbose: int = 0,
) -> Any:
    """Say for each cluster what share of it is active, at least; as `nilearn.glm.cluster_level_inference`.

    All-Resolutions Inference: with probability 1 - alpha the bounds of all clusters hold at once, for any number of
    thresholds, and also if the thresholds were chosen after looking.

    Parameters
    ----------
    stat_img : path, nibabel image or SurfaceImage
        One map on the z scale; its upper tail is tested. NaN and infinity count as 0.
    mask_img : path, nibabel image or SurfaceImage, optional
        Non-zero inside. Default: volumes, all that differs from the background; surfaces, all finite vertices.
    threshold : float or list of float, default 3.0
        Cluster-forming threshold in z, 0 or more; voxels strictly above it form clusters. Of several the highest
        that a voxel exceeds decides.
    alpha : float, default 0.05
        Level.
    verbose : int, default 0
        1: print Hommel's value.

    Returns
    -------
    nibabel image or SurfaceImage
        The lower bound of the share of active voxels or vertices, 0 to 1, at each voxel or vertex of a cluster; 0
        elsewhere. float32 for maps of float32, else float64; on surfaces float64.

    Raises
    ------
    UsageError
        A negative threshold; alpha outside 0 to 1.
    DataError
        An empty mask; broken files. `GridError` if the mask lies on another grid.
    TypeError
        Anything that is no image; `DimensionError` if the map has several volumes.

    Notes
    -----
    What differs from nilearn 0.14.1:

    * On surfaces clusters are connected along the edges of the mesh. nilearn joins vertices by their index: it reads
      the data as a line, whose neighbours need not touch.
    * Shares are at most 1. nilearn gives (n + 1) / n where the p-values of a cluster underflow to 0 (z above 38), or
      where all voxels together are significant.
    * If the mask lies on another grid that is an error; nilearn resamples the map.
    * `verbose` prints; nilearn draws the p-values.

    Each hemisphere of a surface is tested apart, as in nilearn.

    References
    ----------
    .. [1] Rosenblatt JD, Finos L, Weeda WD, Solari A, Goeman JJ (2018). All-Resolutions Inference for brain imaging.
       NeuroImage 181, 786-796. doi:10.1016/j.neuroimage.2018.07.060

    Examples
    --------
    >>> import nibabel
    >>> z = np.random.default_rng(0).standard_normal((10, 10, 10))
    >>> z[2:4, 2:4, 2:4] = 6
    >>> shares = cluster_level_inference(nibabel.Nifti1Image(z, np.eye(4)), threshold=4.0)
    >>> shares.get_fdata().max()
    np.float64(1.0)
    """
    if not isinstance(threshold, list | tuple) and threshold == 3.0:
        exceptions.warn(
            f"\nFrom nilearn version>=0.15, the default 'threshold' will be set to {_NEXT_THRESHOLD}.", FutureWarning
        )
    thresholds: list[float] = sorted(np.atleast_1d(threshold).tolist())
    if any(not one >= 0 for one in thresholds):
        raise UsageError(f"'threshold' cannot be negative or contain negative values. Got: 'threshold={threshold}'.")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha should be between 0 and 1. {alpha} was provided.")
    if is_surface(stat_img) or is_surface(mask_img):
        return _on_surface(stat_img, mask_img, thresholds, alpha, verbose)
    return _in_volume(stat_img, mask_img, thresholds, alpha, verbose)


def _in_volume(stat_img: Any, mask_img: Any, thresholds: Sequence[float], alpha: float, verbose: int) -> Any:
    img = check_niimg_3d(stat_img)
    inside = background_mask(image_data(img)) if mask_img is None else _mask_on(img, mask_img)
    z = finite_data(img, warn=False)  # as nilearn does
    # In the order of memory, which is that of the file: clusters do not depend on it.
    axes = (2, 1, 0) if z.flags.f_contiguous else (0, 1, 2)
    shares = _shares(z.transpose(axes), inside.transpose(axes), _label_volume, thresholds, alpha, verbose)
    dtype = z.dtype if z.dtype.kind == "f" else np.dtype(np.float64)
    result = new_img_like(img, shares.transpose(axes).astype(dtype))
    result.set_data_dtype(dtype)
    return result


def _mask_on(img: Any, mask_img: Any) -> NDArray[np.bool_]:
    mask = check_niimg_3d(mask_img)
    if not same_grid(mask, img):
        raise GridError(
            f"{image_name(mask_img)} lies on another grid than {image_name(img)}: shape {mask.shape} and {img.shape}, "
            f"affines\n{mask.affine}\nand\n{img.affine}",
            "resample one to the grid of the other first",
        )
    inside: NDArray[np.bool_] = finite_data(mask) != 0
    if not inside.any():
        raise DataError(f"The mask is invalid as it is empty: it masks all data. ({image_name(mask_img)})")
    return inside


def _on_surface(stat_img: Any, mask_img: Any, thresholds: Sequence[float], alpha: float, verbose: int) -> Any:
    if not is_surface(stat_img) or not (mask_img is None or is_surface(mask_img)):
        raise TypeError(
            "'stat_img' and 'mask_img' must both be volumes or both SurfaceImages. "
            f"Got: {type(stat_img).__name__} and {type(mask_img).__name__}"
        )
    stat_img.data._check_n_samples(1)
    if mask_img is not None:
        check_same_mesh(mask_img.mesh, stat_img.mesh)
    shares = {}
    for name, values in stat_img.data.parts.items():
        z = np.ravel(values).astype(np.float64)
        finite = np.isfinite(z)
        inside = finite if mask_img is None else np.ravel(mask_img.data.parts[name]).astype(bool)
        if not finite.all():
            exceptions.warn(
                "Non-finite values detected in the input image. "
                + ("These vertices are left out." if mask_img is None else "These values count as 0.")
            )
        z = np.where(finite, z, 0.0)
        found = np.zeros(len(z))
        if inside.any():
            found = _shares(z, inside, _label_mesh(stat_img.mesh.parts[name]), thresholds, alpha, verbose)
        shares[name] = found.reshape(np.shape(values))
    return new_img_like(stat_img, shares)


def _shares(
    z: NDArray[Any],
    inside: NDArray[np.bool_],
    labeller: Labeller,
    thresholds: Sequence[float],
    alpha: float,
    verbose: int,
) -> NDArray[np.float64]:
    """Return the lower bound at each place; float64, shape of `z`."""
    from scipy.special import ndtr, ndtri

    tested = z[inside].astype(np.float64)
    p = np.ones(len(tested))
    near = tested >= -ndtri(alpha) - 1e-6  # Hommel's value needs no p-value above alpha: 1 will do
    p[near] = ndtr(-tested[near])  # the survival function: 1 - ndtr(z) would be 0 from z = 8.3 on
    h = hommel_value(p, alpha)
    if verbose > 0:
        print(f"[cluster_level_inference] Hommel's value is {h} of {len(p)} at alpha = {alpha}")
    shares = np.zeros(z.shape)
    high = np.flatnonzero(inside & (z > thresholds[0])) if thresholds else np.zeros(0, np.intp)
    high = high[np.argsort(-z.reshape(-1)[high])]
    p = ndtr(-z.reshape(-1)[high].astype(np.float64))  # ascending
    for threshold in thresholds:  # ascending: smaller clusters overwrite the larger ones that they lie in
        labels, n = labeller(inside & (z > threshold))
        cluster = labels.reshape(-1)[high]
        of_cluster = true_discovery_proportions(p, cluster, n, h, alpha)
        shares.reshape(-1)[high[cluster > 0]] = of_cluster[cluster[cluster > 0] - 1]
    return shares


def _label_volume(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    backend = get_backend("auto")
    with backend.activate():
        labels, n = label(backend.asarray(inside), 6)
        return backend.to_numpy(labels), n  # sync: the labels


def _label_mesh(mesh: Any) -> Labeller:
    labeller = MeshLabeller(mesh)

    def label_mesh(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
        labels, sizes = labeller(inside)
        return labels, len(sizes)

    return label_mesh
