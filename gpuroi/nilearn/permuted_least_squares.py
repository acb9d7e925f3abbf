"""nilearn's permuted_ols: mass-univariate tests with permutation p-values."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends import backend_of
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn.argument_checks import check_types, n_threads_of, seed_of
from gpuroi.nilearn.permutation_maps import MapOptions, Tested, permutation_maps

__all__ = ["permuted_ols"]

Matrix = NDArray[np.float64]
Maps = dict[str, NDArray[Any]]


def permuted_ols(
    tested_vars: ArrayLike,
    target_vars: Any,
    confounding_vars: ArrayLike | None = None,
    model_intercept: bool = True,
    n_perm: int = 10000,
    two_sided_test: bool = True,
    random_state: Any = None,
    n_jobs: int = 1,
    verbose: int = 0,
    masker: Any = None,
    tfce: bool = False,
    threshold: float | None = None,
    output_type: Literal["dict", "legacy"] = "dict",
) -> Maps | tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Test explanatory variates at every descriptor, with familywise permutation p-values.

    A drop-in for `nilearn.mass_univariate.permuted_ols` 0.14.1, computed by `gpuroi.inference.permutation_test`
    (Freedman and Lane's scheme).

    Parameters
    ----------
    tested_vars : array, shape (n_samples, n_regressors) or (n_samples,)
        Numbers or bool; each column is tested alone, with the confounds.
    target_vars : array, shape (n_samples, n_descriptors)
        The data. float32 is computed in float32. A CuPy array stays on its device; for NumPy arrays the environment
        variable GPUROI_DEVICE decides.
    confounding_vars : array, shape (n_samples, n_covars), optional
        Fitted, not tested.
    model_intercept : bool, default True
        Add a constant to the confounds, unless the tested variate or a confound is one.
    n_perm : int, default 10000
        Rearrangements beside the identity. 0: no p-values, statistics alone.
    two_sided_test : bool, default True
        Large values of either sign count; positive and negative clusters are apart.
    random_state : int, RandomState or None
        Seed, or what to draw it from; None draws from NumPy's global generator.
    n_jobs : int, default 1
        Threads; -1 for all processors, -2 for all but one. Results do not depend on it.
    verbose : int, default 0
        Print progress.
    masker : masker, image, path or domain, optional
        Says which descriptors are neighbours, for `tfce` and `threshold`: a fitted NiftiMasker, or (not in nilearn)
        a mask image, or a domain such as `gpuroi.domains.SurfaceMesh`.
    tfce : bool, default False
        Threshold-free cluster enhancement.
    threshold : float, optional
        Cluster-forming p-value: of both tails together if the test is two-sided.
    output_type : {"dict", "legacy"}
        "legacy" gives `(logp_max_t, t, h0_max_t)`, and a FutureWarning, as in nilearn.

    Returns
    -------
    dict of str to array
        Of shape (n_regressors, n_descriptors): `t`, `logp_max_t` (-log10 of the familywise p); with `tfce` also `tfce`,
        `logp_max_tfce`; with `threshold` also `size` (voxels, int64), `logp_max_size`, `mass` (sum of |t| less the
        threshold), `logp_max_mass`. Of shape (n_regressors, n_perm): `h0_max_t`, `h0_max_tfce`, `h0_max_size`,
        `h0_max_mass`, in the order of the rearrangements, without the identity. float64, on the host.

    Raises
    ------
    TypeError
        Arguments of another type; `tested_vars` that are no numbers.
    UsageError
        `n_jobs` of 0; `tfce` or `threshold` without `masker`; a threshold that is no p-value.
    DataError
        Shapes that do not fit; NaN in `tested_vars` or `confounding_vars`; a variate that the confounds explain.

    Notes
    -----
    What differs from nilearn 0.14.1:

    * Signs are flipped only where the tested variate is the intercept. nilearn flips them whenever the confounds hold
      a constant column, whatever is tested; here the observations are permuted then.
    * p = (number of rearrangements, the identity among them, that reach the value) / (n_perm + 1) for t, clusters and
      TFCE alike; values count as equal within rounding errors. nilearn leaves the identity out for clusters, and p is
      at least 1 / n_perm there; outside clusters p is 1, nilearn's is 1 - 1 / n_perm.
    * Where no more than n_perm + 1 distinct rearrangements exist all of them are run, once, with a warning if they
      are fewer, and the null distributions are shorter; rows shorter than others end in NaN.
    * A seed gives the same rearrangements for any `n_jobs`; `n_jobs=-1` is the number of processors, not two more.
    * TFCE is the exact integral: doubling t multiplies it by 8. nilearn sums over a hundredth of each map's maximum
      and leaves the step out, so that observed and permuted maps are on different scales.
    * `threshold` above 1 (one-sided: 0.5) is an error; nilearn turns it into NaN and finds nothing. Its degrees of
      freedom are those of the model that is tested; nilearn's count all columns, dependent ones too.
    * NaN in a variate is an error that names the row. A descriptor with NaN, infinity or no variance has t and p of
      NaN; nilearn's p is finite there.
    * Confounds may depend on each other: the rank counts.

    References
    ----------
    .. [1] Freedman D, Lane D (1983). A nonstochastic interpretation of reported significance levels. J Bus Econ Stat
       1, 292-298. doi:10.1080/07350015.1983.10509354
    .. [2] Winkler AM et al. (2014). Permutation inference for the general linear model. NeuroImage 92, 381-397.
       doi:10.1016/j.neuroimage.2014.01.060
    .. [3] Smith SM, Nichols TE (2009). Threshold-free cluster enhancement. NeuroImage 44, 83-98.
       doi:10.1016/j.neuroimage.2008.03.061

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> age = rng.uniform(20, 80, 30)
    >>> data = rng.standard_normal((30, 4)) + np.outer(age, [0.1, 0, 0, 0])
    >>> out = permuted_ols(age, data, n_perm=999, random_state=0)
    >>> out["t"].shape, out["h0_max_t"].shape, out["logp_max_t"].round(1)[0, 0]
    ((1, 4), (1, 999), np.float64(3.0))
    """
    check_types(
        n_jobs=n_jobs, n_perm=n_perm, random_state=random_state, tfce=tfce, threshold=threshold,
        two_sided_test=two_sided_test, verbose=verbose,
    )  # fmt: skip
    if output_type not in ("dict", "legacy"):
        raise UsageError(f'output_type is "{output_type}"', 'use "dict"')
    n_threads = n_threads_of(n_jobs)
    if tfce and masker is None:
        raise UsageError("A masker must be provided if tfce is True.")
    if threshold is not None and masker is None:
        raise UsageError("If 'threshold' is not None, masker must be defined as well.")
    data = np.asarray(target_vars) if backend_of(target_vars).name == "cpu" else target_vars
    if data.ndim != 2:
        raise DataError(
            f"'target_vars' should be a 2D array. An array with {data.ndim} dimension(s) was passed.",
            "one row for each sample, one column for each descriptor",
        )
    variates = _variates(tested_vars, "tested_vars", len(data))
    confounds = None if confounding_vars is None else _variates(confounding_vars, "confounding_vars", len(data))
    legacy = _is_legacy(output_type, tfce, threshold)
    if 0 < n_perm <= n_threads:
        _warn_of_few_permutations(n_perm, n_threads)
    options = MapOptions(
        n_perm=int(n_perm),
        two_sided=bool(two_sided_test),
        seed=seed_of(random_state),
        n_threads=n_threads,
        verbose=int(verbose),
        domain=_domain(masker) if tfce or threshold is not None else None,
        threshold=threshold,
        tfce=bool(tfce),
    )
    out = permutation_maps(data, _models(variates, confounds, model_intercept), options)
    if legacy:
        empty = np.asarray([])
        return out.get("logp_max_t", empty), out["t"], out.get("h0_max_t", empty)
    return out


def _variates(given: ArrayLike, name: str, n: int) -> Matrix:
    """Return variates as float64 columns (n, k)."""
    values = np.asarray(given)
    if values.dtype.kind == "O":  # a table of mixed columns
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"'{name}' must contain numerical or boolean values.") from None
    if values.dtype.kind not in "biuf":
        raise TypeError(f"'{name}' must contain numerical or boolean values.")
    values = values.astype(np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != n:
        raise DataError(
            f"{name} has shape {values.shape}, but target_vars has {n} rows: both must have one row for each sample",
            "check that no sample is missing from one of them",
        )
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, column = (int(i) for i in broken[0])
        raise DataError(
            f"{name} holds {values[row, column]} in row {row}, column {column} (from 0; {len(broken)} such values)",
            "complete it, or leave these samples out of tested_vars, target_vars and confounding_vars alike",
        )
    return values


def _models(variates: Matrix, confounds: Matrix | None, model_intercept: bool) -> list[Tested]:
    """One model for each tested column."""
    n, k = variates.shape
    others = np.empty((n, 0)) if confounds is None else confounds
    constants = _is_constant(others)
    models, is_warned = [], False
    for i in range(k):
        column = variates[:, i : i + 1]
        is_intercept = bool(_is_constant(column)[0])
        too_many = constants.sum() + is_intercept > 1
        if too_many and not is_warned:
            is_warned = True
            warnings.warn(
                'Multiple columns across "confounding_vars" and/or "target_vars" are constant. Only one will be used '
                "as intercept.",
                UserWarning,
                stacklevel=3,
            )
        kept = ~constants if too_many else np.ones(others.shape[1], dtype=bool)
        has_intercept = is_intercept or bool(constants[kept].any())
        added = (model_intercept or too_many) and not has_intercept
        names = [f"tested_vars column {i}", *(f"confounding_vars column {j}" for j in np.flatnonzero(kept))]
        design = np.hstack([column, others[:, kept], np.ones((n, int(added)))])
        contrast = np.zeros(design.shape[1])
        contrast[0] = 1.0
        models.append(Tested(design, contrast, is_intercept, (*names, *(["intercept"] if added else []))))
    return models


def _is_constant(columns: Matrix) -> NDArray[np.bool_]:
    """Which columns hold one value, other than 0."""
    return np.asarray((np.ptp(columns, axis=0) == 0) & (columns[0] != 0))


def _domain(masker: Any) -> Any:
    """Return the neighbourhood of the descriptors."""
    if hasattr(masker, "n_elements") and hasattr(masker, "graph"):
        return masker
    from gpuroi.domains import VoxelGrid
    from gpuroi.images import open_image, read_mask

    source = getattr(masker, "mask_img_", masker)
    if hasattr(source, "fit"):
        raise DataError(
            f"masker is a {type(masker).__name__} that was not fitted: it has no mask_img_", "call masker.fit(...)"
        )
    image = open_image(source)
    return VoxelGrid(read_mask(image), image.affine)


def _is_legacy(output_type: str, tfce: bool, threshold: float | None) -> bool:
    if output_type == "dict":
        return False
    if tfce or threshold is not None:
        what = 'If "tfce" is set to True, "output_type"' if tfce else "If 'threshold' is not None, 'output_type'"
        warnings.warn(f'{what} must be set to "dict". Overriding.', UserWarning, stacklevel=3)
        return False
    warnings.warn(
        "The 'output_type' parameter for 'permuted_ols' is deprecated. It will be removed in version 0.15.\n"
        'Change its value to "dict" to silence this warning.',
        FutureWarning,
        stacklevel=3,
    )
    return True


def _warn_of_few_permutations(n_perm: int, n_threads: int) -> None:
    warnings.warn(
        f"The specified number of permutations is {n_perm} and the number of jobs to be performed in parallel has set "
        f"to {n_threads}. You may want to perform more permutations in order to take the most of the available "
        "computing resources.",
        UserWarning,
        stacklevel=3,
    )
