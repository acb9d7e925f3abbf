"""Permutation inference: one engine for voxels, parcels and vertices."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

from gpuroi.backends.threads import limited_threads
from gpuroi.errors import UsageError
from gpuroi.inference.permutation_settings import PermutationSettings
from gpuroi.inference.result import PermutationResult, PermutationState
from gpuroi.inference.shares import permutation_shares

__all__ = ["permutation_test"]


def permutation_test(
    data: Any,
    design: Any,
    contrast: Any,
    *,
    domain: Any = None,
    n_permutations: int = 5000,
    errors: Literal["ee", "ise", "both"] = "ee",
    flips: Literal["random", "group"] = "random",
    method: str = "freedman-lane",
    blocks: Any = None,
    whole_blocks: bool = False,
    two_sided: bool = True,
    cluster_threshold: float | None = None,
    cluster_scale: str = "t",
    cluster_mass: str = "sum",
    tfce: bool = False,
    tfce_step: float | str = "exact",
    tfce_connectivity: int | None = None,
    tfce_H: float = 2.0,
    tfce_E: float | None = None,
    permutations: Any = None,
    variance_groups: Any = None,
    tail: str | None = None,
    early_stop: int | None = None,
    seed: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    checkpoint: Callable[[PermutationState], None] | None = None,
    resume: PermutationState | None = None,
) -> PermutationResult:
    """Test a contrast at every element by rearranging the data.

    Parameters
    ----------
    data : array or ColumnSource, shape (n_subjects, n_elements)
        float32 or float64; NumPy or CuPy. Integers become floats. A `ColumnSource` is read block by block of elements.
    design : array, shape (n_subjects, n_regressors)
    contrast : array, shape (n_regressors,) for t, (k, n_regressors) for F
    domain : VoxelGrid, ParcelGraph or SurfaceMesh, optional
        Which elements are neighbours; needed for clusters and TFCE.
    n_permutations : int, default 5000
        Rearrangements; the identity counts as one. If fewer exist, all are run.
    errors : {"ee", "ise", "both"}
        Exchangeable errors are permuted, independent and symmetric errors have their signs flipped, or both.
    flips : {"random", "group"}
        With ``errors="ise"``: independent flips, or a random group of them, as many as the largest power of two up to
        `n_permutations` (see `sign_flip_group`). A group is as exact and faster, the more subjects the more so.
    method : {"freedman-lane", "draper-stoneman", "ter-braak"}
        How the nuisance is dealt with.
    blocks : array, shape (n_subjects,) or (n_subjects, n_levels), optional
        Exchangeability blocks: observations are exchanged within them. A table is PALM's multi-level notation.
    whole_blocks : bool, default False
        Exchange the blocks as wholes instead.
    two_sided : bool, default True
        t only: large values of either sign count; positive and negative clusters are apart.
    cluster_threshold : float, optional
        Cluster-forming threshold; elements strictly above it form clusters.
    cluster_scale : {"t", "z"}
        Scale of the threshold, of cluster mass and of TFCE: the statistic itself, or z with the same tail area.
    cluster_mass : {"sum", "excess"}
        Sum over a cluster of ``abs(statistic)`` (FSL, PALM), or of what exceeds the threshold (nilearn).
    tfce : bool, default False
        Threshold-free cluster enhancement.
    tfce_step : "exact", float or "max/100"
        The exact integral; or a sum with this step; or PALM's, relative to each map. Steps want float64 data: where
        rounding carries a voxel over the edge of a step, its p errs by that step, to the larger side. In float32 that
        happens now and then; the exact integral has no edges.
    tfce_connectivity : {6, 18, 26}, optional
        Of a voxel grid, for TFCE alone; by default the domain's own.
    tfce_H, tfce_E : float, default 2 and 0.5
        Exponents of height and extent. E is 1 on surfaces by default, as in FSL and PALM.
    permutations : int array, shape (k, n_subjects), optional
        The rearrangements themselves, as PALM lists them: row b moves the residual of subject i to place
        ``abs(b[i])``, from 1, and takes its sign. Overrides `errors`, `blocks`, `seed` and `n_permutations`.
    variance_groups : array, shape (n_subjects,), optional
        Groups of subjects with variances of their own: Aspin and Welch's v, or G for F. Maxima, clusters and TFCE are
        then on the z scale. Every rearrangement is fitted anew: tens of times slower.
    tail : {None, "gpd", "gamma"}
        Familywise p below 1 / n_permutations from a generalised Pareto tail or a gamma distribution.
    early_stop : int, optional
        Stop an element when this many rearrangements have reached its statistic (10 or 20, say): many times faster for
        uncorrected p-values of many elements. There are then no familywise p-values, clusters or TFCE. An exhaustive
        list is gone through in random order; `permutations` in their own, which should be random.
    seed : int, default 0
        Rearrangement k depends on (seed, k) alone.
    device : {"auto", "cpu", "cuda", "cuda:N", "cuda:0,cuda:1", "all"}
        For NumPy data; CuPy data stay where they are. Several CUDA devices share the rearrangements: each holds the
        residuals.
    n_jobs : int, optional
        Threads of the CPU kernels; by default all. Results do not depend on it.
    progress : callable, optional
        Called with the numbers done and in all, after every batch or a few of them.
    scratch : path, optional
        Folder on a fast disk for the residuals, n_subjects x n_elements of them, where memory does not hold them. They
        are read once for every batch of rearrangements, and removed at the end. Results are the same to the last bit on
        the CPU; on a device the product has another shape, and values agree to rounding.
    checkpoint : callable, optional
        Called with a `PermutationState` as often.
    resume : PermutationState, optional
        Go on from here.

    Returns
    -------
    PermutationResult

    Raises
    ------
    DataError
        Shapes that do not fit; a contrast that cannot be estimated; blocks that allow no rearrangement; no element with
        a statistic; a state of another test.
    UsageError
        An argument outside its range; clusters or TFCE without a domain; `scratch` with variance groups or early stop.
    OutputError
        If the scratch folder cannot be written.
    DeviceError
        If the device asked for cannot be used.

    Notes
    -----
    The identity is rearrangement 0 and goes through the same product as the others; the t or F that is reported and
    compared is that of sums in float64, equal to the product within its rounding. p = (number that reach the observed
    value) / (number run), the identity counted; values count as equal within a few rounding errors. Signs are flipped
    only when asked for: a constant column in the design changes nothing. Elements without a statistic (constant, or
    with a missing value) are NaN in every map and enter no maximum.

    References
    ----------
    .. [1] Winkler AM et al. (2014). Permutation inference for the general linear model. NeuroImage 92, 381-397.
       doi:10.1016/j.neuroimage.2014.01.060
    .. [2] Freedman D, Lane D (1983). A nonstochastic interpretation of reported significance levels. J Bus Econ Stat
       1, 292-298. doi:10.1080/07350015.1983.10509354
    .. [3] Smith SM, Nichols TE (2009). Threshold-free cluster enhancement. NeuroImage 44, 83-98.
       doi:10.1016/j.neuroimage.2008.03.061

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> data = rng.standard_normal((12, 50))
    >>> data[:6, 0] += 4
    >>> group = np.repeat([0.0, 1.0], 6)
    >>> result = permutation_test(data, np.column_stack([1 - group, group]), [1, -1], n_permutations=500, device="cpu")
    >>> bool(result.p_fwe[0] < 0.05), result.n_permutations, result.null["max_stat"].shape
    (True, 500, (500,))
    """
    if tail not in (None, "gpd", "gamma"):
        raise UsageError(f'tail is "{tail}"', 'use None, "gpd" or "gamma"')
    if early_stop is not None and (checkpoint is not None or resume is not None or tail is not None):
        raise UsageError("early_stop goes with no checkpoint, resume or tail", "leave these out")
    if scratch is not None and (variance_groups is not None or early_stop is not None):
        raise UsageError("scratch with variance groups or early_stop", "these hold the residuals in memory")
    settings = PermutationSettings(
        domain=domain,
        n_permutations=n_permutations,
        errors=errors,
        flips=flips,
        method=method,
        blocks=blocks,
        whole_blocks=whole_blocks,
        two_sided=two_sided,
        cluster_threshold=cluster_threshold,
        cluster_scale=cluster_scale,
        cluster_mass=cluster_mass,
        tfce=tfce,
        tfce_step=tfce_step,
        tfce_connectivity=tfce_connectivity,
        tfce_H=tfce_H,
        tfce_E=tfce_E,
        permutations=permutations,
        variance_groups=variance_groups,
        seed=seed,
    )
    with limited_threads(n_jobs), permutation_shares(data, design, contrast, settings, device, scratch) as shares:
        if early_stop is not None:
            return shares.stopped_early(early_stop, progress)
        shares.count_all(progress, checkpoint, resume)
        return shares.result(tail)
