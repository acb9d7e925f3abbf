"""Permutation inference: one engine for voxels, parcels and vertices."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpuroi.backends import backend_of, get_backend
from gpuroi.backends.base import Array, Backend
from gpuroi.backends.threads import limited_threads
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.inference.columns import ColumnSource
from gpuroi.inference.correct import coarse_p_warning
from gpuroi.inference.design import Partition, partition
from gpuroi.inference.early_stop import run_until_settled
from gpuroi.inference.exchange_blocks import BlockTree, block_tree, places_to_reach
from gpuroi.inference.memory import permutation_peak_bytes
from gpuroi.inference.permutation_run import PermutationRun
from gpuroi.inference.plan import StatisticsPlan
from gpuroi.inference.rearrange import Rearrangements, make_rearrangements
from gpuroi.inference.result import PermutationResult, PermutationState
from gpuroi.inference.sign_flip_group import SignFlipGroup, sign_flip_group
from gpuroi.ops.volumes import as_float, float_dtype

__all__ = ["permutation_test", "place", "scratch_folder"]

_log = logging.getLogger("gpuroi")


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
        The exact integral; or a sum with this step; or PALM's, relative to each map.
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
    device : {"auto", "cpu", "cuda", "cuda:N"}
        For NumPy data; CuPy data stay where they are.
    n_jobs : int, optional
        Threads of the CPU kernels; by default all. Results do not depend on it.
    progress : callable, optional
        Called with the numbers done and in all, after every batch.
    scratch : path, optional
        Folder on a fast disk for the residuals, n_subjects x n_elements of them, where memory does not hold them. They
        are read once for every 64 rearrangements, and removed at the end. Results are the same to the last bit.
    checkpoint : callable, optional
        Called with a `PermutationState` after every batch.
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
    plan = StatisticsPlan.of(
        domain,
        cluster_threshold,
        cluster_scale,
        tfce,
        tfce_step,
        tfce_connectivity,
        two_sided,
        cluster_mass,
        (tfce_H, tfce_E),
    )
    backend, values, dtype = place(data, device)
    n, n_elements = values.shape
    x = np.asarray(design, dtype=np.float64)
    if x.ndim != 2 or len(x) != n:
        raise DataError(
            f"design has shape {x.shape} but data has {n} rows: both must have one row per subject",
            "check that no subject is missing from one of them",
        )
    part = partition(x, contrast)
    if part.kind == "F":
        plan = plan.for_f()
    if part.constant and errors == "ee" and permutations is None:
        raise DataError(
            "the regressor of interest is constant: permuting the subjects changes nothing",
            'use errors="ise" (sign flips), if errors are symmetric about 0',
        )
    rows = np.hstack([part.x, part.z])
    arrangements: Rearrangements | SignFlipGroup
    if _flips_of_a_group(flips, errors, permutations):
        arrangements = sign_flip_group(
            len(x), n_permutations=n_permutations, blocks=blocks, whole_blocks=whole_blocks, seed=seed, x=rows
        )
    else:
        arrangements = make_rearrangements(
            len(x),
            n_permutations=n_permutations,
            errors=errors,
            blocks=blocks,
            whole_blocks=whole_blocks,
            seed=seed,
            x=rows,
            explicit=permutations,
        )
    if errors == "ee" and permutations is None:
        _warn_of_effect_that_stays(part, block_tree(len(x), blocks, whole_blocks=whole_blocks, errors=errors))
    if plan.domain is not None and plan.domain.n_elements != n_elements:
        raise DataError(
            f"data has {n_elements} elements but the domain has {plan.domain.n_elements}",
            "take the data from the same mask, parcels or vertices as the domain",
        )
    _say(arrangements, n_permutations, permutations is not None)
    if cluster_threshold is not None and cluster_threshold < 1:
        _log.warning("cluster_threshold is %g on the %s scale: is it a p-value?", cluster_threshold, cluster_scale)
    settings = {
        "errors": errors,
        "flips": flips,
        "seed": seed,
        "method": method,
        "blocks": _blocks_in_words(blocks, whole_blocks, permutations),
        "n_variance_groups": 1 if variance_groups is None else len(np.unique(variance_groups)),
    }
    if scratch is not None and (variance_groups is not None or early_stop is not None):
        raise UsageError("scratch with variance groups or early_stop", "these hold the residuals in memory")
    with backend.activate(), limited_threads(n_jobs), scratch_folder(scratch) as folder:
        signs = errors != "ee" if permutations is None else bool(np.any(np.asarray(permutations) < 0))
        test = PermutationRun(
            backend,
            values,
            part,
            method,
            arrangements,
            plan,
            dtype=dtype,
            flips=signs,
            variance_groups=variance_groups,
            scratch=folder,
        )
        if backend.name == "cpu" and variance_groups is None:
            needs = permutation_peak_bytes(
                n,
                n_elements,
                dtype,
                n_products=part.r + part.z.shape[1],
                needs_maps=plan.needs_maps,
                as_z=plan.scale == "z",
                some_left_out=test.n_left_out > 0,
                stored=folder is not None,
            )
            _log.info("peak memory about %.0f MB beside the data", needs / 1e6)
        if early_stop is not None:
            if checkpoint is not None or resume is not None or tail is not None:
                raise UsageError("early_stop goes with no checkpoint, resume or tail", "leave these out")
            p, n_run = run_until_settled(test, early_stop, progress, seed)
            return test.sequential_result(p, n_run, {**settings, "early_stop": early_stop})
        test.run(progress, checkpoint, resume)
        return test.result(tail, settings)


@contextmanager
def scratch_folder(scratch: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """A new folder within `scratch`, gone at the end."""
    if scratch is None:
        yield None
        return
    try:
        folder = tempfile.TemporaryDirectory(dir=scratch, prefix="gpuroi-")
    except OSError as error:
        raise OutputError(f"{scratch}: {error.strerror}", "give a folder that can be written") from error
    with folder as name:
        yield Path(name)


def _blocks_in_words(blocks: Any, whole_blocks: bool, permutations: Any) -> str | None:
    """How exchangeability blocks restrict the rearrangements, for whoever reads the result."""
    if blocks is None or permutations is not None:
        return None
    given = np.asarray(blocks)
    if given.ndim == 2 and given.shape[1] > 1:
        return f"nested in {given.shape[1]} levels"
    return f"{len(np.unique(given))} blocks, exchanged {'as wholes' if whole_blocks else 'within'}"


def _flips_of_a_group(flips: str, errors: str, permutations: Any) -> bool:
    """Are the sign flips to form a group? Refuses what does not go with that."""
    if flips not in ("random", "group"):
        raise UsageError(f'flips is "{flips}"', 'use "random" or "group"')
    if flips == "group" and (errors != "ise" or permutations is not None):
        found = f'errors="{errors}"' if permutations is None else "permutations of your own"
        raise UsageError(f'flips="group" with {found}', 'a group is of sign flips alone: use errors="ise"')
    return flips == "group"


def _warn_of_effect_that_stays(part: Partition, tree: BlockTree) -> None:
    """Warn of an effect that is, but for the nuisance, the same wherever a permutation may bring an observation.

    Such as a mean beside a covariate that is not centred, or a group of blocks where subjects trade places within them.
    """
    place = places_to_reach(tree)
    columns = np.hstack([part.x_orth, part.z])
    sums = np.stack([np.bincount(place, weights=column) for column in columns.T], axis=1)  # (places, rank)
    columns = columns - (sums / np.bincount(place)[:, None])[place]
    x, z = columns[:, : part.r], columns[:, part.r :]
    left = x - z @ np.linalg.lstsq(z, x, rcond=1e-10)[0]
    if np.linalg.norm(left) < 1e-8:
        _log.warning(
            "the effect is constant, but for the nuisance, wherever observations may trade places: permutations move "
            'it by way of the nuisance alone, and p is not to be relied on; errors="ise" flips signs, if errors are '
            "symmetric about 0"
        )


def _say(arrangements: Rearrangements | SignFlipGroup, n_asked: int, explicit: bool) -> None:
    """Say what the number of rearrangements means for the p-values."""
    n = arrangements.n
    if arrangements.exhaustive and not explicit and n < n_asked:
        _log.info("%d rearrangements exist, fewer than the %d asked for: all are run", n, n_asked)
    _log.info("the smallest p that %d rearrangements can give is %.3g", n, 1 / n)
    warning = coarse_p_warning(n, exhaustive=arrangements.exhaustive)
    if warning and n > 1:  # the identity alone: only the statistic is wanted
        _log.warning(warning)


def place(data: Any, device: str) -> tuple[Backend, Array | ColumnSource, np.dtype[Any]]:
    """Return the backend, the data on it, (n, v), and the float type that they are computed in."""
    if isinstance(data, ColumnSource):
        return get_backend(device), data, float_dtype(data.dtype, "data")
    backend = backend_of(data)
    if backend.name == "cpu":
        backend = get_backend(device)
        if backend.name != "cpu":
            data = backend.asarray(np.asarray(data))
    with backend.activate():
        values = as_float(backend, data, "data")
    if values.ndim != 2:
        raise DataError(
            f"data has shape {tuple(values.shape)}: expected (n_subjects, n_elements)",
            "take the elements inside the mask: domain.from_volume(volumes)",
        )
    return backend, values, values.dtype
