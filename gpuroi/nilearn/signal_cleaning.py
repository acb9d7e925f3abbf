"""Signals freed of drifts, confounds and frequencies: what nilearn's `signal.clean` does, on the CPU or the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.confounds import read_confounds, read_sample_masks, with_cosines

__all__ = ["clean", "high_variance_confounds"]

_EPS = np.finfo(np.float64).eps
_CHUNK_BYTES = 64 << 20  # of float64 signals at a time
_LONGEST_DENSE = 2048  # volumes up to which a filter is applied as a matrix (33 MB)
_COLLINEAR = 1e-10  # a confound of which the others leave less than this share adds nothing
_STANDARDIZE = ("zscore_sample", "psc", True, False, None)


@dataclass(frozen=True)
class _Cleaning:
    """What is done to each run."""

    detrend: bool
    standardize: str | None
    standardize_confounds: bool
    kind: str | None
    low_pass: float | None
    high_pass: float | None
    t_r: float | None
    extrapolate: bool
    butterworth: dict[str, Any] = field(default_factory=dict)

    @property
    def changes_nothing(self) -> bool:
        """Whether only volumes are left out, and confounds regressed out."""
        return not self.detrend and self.standardize is None and self.kind != "butterworth"


def clean(
    signals: Any,
    runs: Any = None,
    detrend: bool = True,
    standardize: Any = "zscore_sample",
    sample_mask: Any = None,
    confounds: Any = None,
    standardize_confounds: bool = True,
    filter: Any = "butterworth",
    low_pass: float | None = None,
    high_pass: float | None = None,
    t_r: float | None = 2.5,
    ensure_finite: bool = False,
    extrapolate: bool = False,
    **kwargs: Any,
) -> NDArray[Any]:
    """Clean signals as `nilearn.signal.clean` does.

    In this order: left-out volumes are interpolated (butterworth) or dropped; linear trends; the band-pass filter;
    left-out volumes are dropped; confounds, which went through the same steps, are regressed out [1]_; the scale.

    Parameters
    ----------
    signals : array, shape (n, v)
        n volumes, v elements. Not modified.
    runs : array, shape (n,), optional
        Run of each volume; each run is cleaned for itself.
    detrend : bool, default True
        Remove the mean and the linear trend.
    standardize : {"zscore_sample", "psc", None}, default "zscore_sample"
        Mean 0 and standard deviation 1 (n - 1); or percent of the mean. True and False are nilearn's old words.
    sample_mask : array of int or bool, or list of one for each run, optional
        Volumes to keep.
    confounds : array (n,) or (n, p), DataFrame, path, or list of these, optional
    standardize_confounds : bool, default True
        False only divides them by their largest magnitude.
    filter : {"butterworth", "cosine", False}, default "butterworth"
        A recursive filter, forwards and backwards; or cosines that join the confounds (`high_pass` only).
    low_pass, high_pass : float, optional
        Hz.
    t_r : float, default 2.5
        Seconds between volumes.
    ensure_finite : bool, default False
        NaN and infinity become 0 first.
    extrapolate : bool, default False
        Interpolate left-out volumes at the ends too; otherwise they are dropped before the filter.
    **kwargs
        `butterworth__order` (5), `butterworth__padtype` ("odd"), `butterworth__padlen`; others are ignored.

    Returns
    -------
    array, shape (volumes kept, v)
        In the floating type of `signals`; integers become float32 (float64 if of 64 bits).

    Raises
    ------
    UsageError, DataError
        Parameters or lengths that do not fit; both are ValueErrors.
    TypeError
        Types that nilearn refuses.
    AllVolumesRemovedError
        If `sample_mask` is empty.

    Notes
    -----
    Computed in float64 whatever the type, on `GPUROI_DEVICE`; CPU and CUDA agree to 1e-9 of a signal's range. Unlike
    nilearn 0.14.1: a left-out volume is always interpolated (there only if the volume at the same distance from the
    other end is kept, so that artefacts stay in the filter); `sample_mask` is not changed in place; with `runs`, all
    options apply to each run (there `standardize_confounds`, `extrapolate` and `butterworth__*` are forgotten), and
    their numbers need not start at 0; a signal that does not vary is 0, and a confound that others make up counts once
    (there their rounding errors are scaled up); a missing value in a confound is an error that names the column.

    References
    ----------
    .. [1] Lindquist et al. (2019), Human Brain Mapping 40:2358-2376, doi:10.1002/hbm.24528

    Examples
    --------
    >>> drifting = np.arange(6.0)[:, None] + [[0], [1], [0], [1], [0], [1]]
    >>> clean(drifting, standardize=None).round(2).ravel().tolist()
    [-0.29, 0.63, -0.46, 0.46, -0.63, 0.29]
    """
    check_types(detrend=detrend, standardize_confounds=standardize_confounds, low_pass=low_pass, high_pass=high_pass)
    check_types(t_r=t_r)
    if ensure_finite not in (True, False):
        raise UsageError(f"'ensure_finite' must be one of [True, False].\n'{ensure_finite}' was provided.")
    if confounds is not None and not detrend and not standardize_confounds:
        exceptions.warn(
            "When confounds are provided, one must perform detrend and/or standardize confounds. "
            f"You provided detrend={detrend}, standardize_confounds={standardize_confounds}. If confounds were not "
            "standardized or demeaned before passing to signal.clean signal will not be correctly cleaned. "
        )
    cleaning = _Cleaning(
        detrend,
        _standardization(standardize),
        standardize_confounds,
        _filter_kind(filter, low_pass, high_pass, t_r),
        low_pass,
        high_pass,
        t_r,
        extrapolate,
        {key[13:]: value for key, value in kwargs.items() if key.startswith("butterworth__")},
    )
    values = _as_signals(signals, ensure_finite)
    members = _members(runs, len(values))
    regressors = read_confounds(confounds, len(values))
    lengths = [len(member) for member in members]
    keep = [None] * len(members) if sample_mask is None else read_sample_masks(sample_mask, lengths)
    if len(members) == 1:
        return _clean_run(values, regressors, keep[0], cleaning)
    return np.vstack(
        [
            _clean_run(values[member], None if regressors is None else regressors[member], kept, cleaning)
            for member, kept in zip(members, keep, strict=True)
        ]
    )


def high_variance_confounds(
    series: Any, n_confounds: int = 5, percentile: float = 2.0, detrend: bool = True
) -> NDArray[np.float64]:
    """Return the first principal components of the signals that vary most (CompCor [1]_).

    Parameters
    ----------
    series : array, shape (n, v)
    n_confounds : int, default 5
    percentile : float, default 2.0
        Percent of the signals that are taken.
    detrend : bool, default True
        Remove linear trends first.

    Returns
    -------
    float64 array, shape (n, n_confounds)
        Orthonormal; their signs are arbitrary.

    Notes
    -----
    As `nilearn.signal.high_variance_confounds`: the "variance" is the mean square; signals with NaN are left out.

    References
    ----------
    .. [1] Behzadi et al. (2007), NeuroImage 37:90-101, doi:10.1016/j.neuroimage.2007.04.042

    Examples
    --------
    >>> signals = np.random.default_rng(0).normal(size=(10, 200))
    >>> high_variance_confounds(signals, n_confounds=2).shape
    (10, 2)
    """
    values = np.asarray(series)
    backend = get_backend("auto")
    mean_squares = np.empty(values.shape[1])
    with backend.activate(), np.errstate(invalid="ignore"):
        for columns in _column_chunks(values.shape):
            chunk = _chunk(backend, values, columns, detrend=detrend)
            mean_squares[columns] = backend.to_numpy((chunk * chunk).mean(axis=0))
        chosen = np.flatnonzero(mean_squares > np.nanpercentile(mean_squares, 100.0 - percentile))
        gram = np.zeros((len(values), len(values)))
        for columns in _column_chunks((len(values), len(chosen))):
            chunk = _chunk(backend, values, chosen[columns], detrend=detrend)
            gram += backend.to_numpy(chunk @ chunk.T)
    _, vectors = np.linalg.eigh(gram / len(values))  # ascending
    return np.ascontiguousarray(vectors[:, ::-1][:, :n_confounds])


def _clean_run(
    signals: NDArray[Any], confounds: NDArray[np.float64] | None, keep: NDArray[np.intp] | None, cleaning: _Cleaning
) -> NDArray[Any]:
    """Clean the signals of one run."""
    if cleaning.kind == "cosine":
        confounds = with_cosines(confounds, len(signals), float(cleaning.high_pass or 0), float(cleaning.t_r or 0))
        if cleaning.low_pass is not None:
            exceptions.warn("low_pass is not implemented for filter='cosine'")
    if keep is not None and not len(keep):
        raise exceptions.AllVolumesRemovedError
    if cleaning.changes_nothing and confounds is None:
        return signals.copy() if keep is None else signals[keep]
    backend = get_backend("auto")
    steps = _TimeSteps(backend, len(signals), signals.shape[1], keep, cleaning)
    if keep is not None and cleaning.kind == "butterworth" and not np.isfinite(signals).all():
        raise DataError("signals must contain only finite values to interpolate volumes", "pass ensure_finite=True")
    with backend.activate(), np.errstate(invalid="ignore", over="ignore"):
        basis = None if confounds is None else _basis(backend, steps, confounds, cleaning.standardize_confounds)
        result = np.empty((steps.n_kept, signals.shape[1]), signals.dtype)
        before, after = np.empty(signals.shape[1]), np.empty(signals.shape[1])  # means, for percent of the mean
        work = np.empty(result.shape) if cleaning.standardize == "psc" else result
        for columns in _column_chunks(signals.shape):
            x, means = steps.apply(backend.asarray(np.ascontiguousarray(signals[:, columns]), np.float64))
            if basis is not None:
                x = x - basis @ (basis.T @ x)
            if cleaning.standardize == "zscore_sample":
                x = _zscored(backend, x)
            elif cleaning.standardize == "psc":
                before[columns], after[columns] = backend.to_numpy(means), backend.to_numpy(x.mean(axis=0))
            work[:, columns] = backend.to_numpy(x)
    if cleaning.standardize is not None and len(result) == 1:
        _say_one_volume("Standardization")
        return work.astype(signals.dtype, copy=False)
    return _percent(work, before, after).astype(signals.dtype) if cleaning.standardize == "psc" else result


class _TimeSteps:
    """Interpolation, trends, filter and left-out volumes: all that confounds go through as signals do."""

    def __init__(self, backend: Backend, n: int, v: int, keep: NDArray[np.intp] | None, cleaning: _Cleaning) -> None:
        self.backend, self.detrend = backend, cleaning.detrend
        self.first = self.last = self.fill = None  # rows taken first and last; interpolation
        self.sections: tuple[NDArray[np.float64], dict[str, Any]] | None = None
        if cleaning.kind == "butterworth":
            if keep is not None:
                span = np.arange(n) if cleaning.extrapolate else np.arange(keep[0], keep[-1] + 1)
                self.first, self.last = span, keep - span[0]
                self.fill = _interpolation(keep, span, n)
            self.sections = _sections(cleaning)
        elif keep is not None:
            self.first = keep
        n_filtered = n if self.first is None else len(self.first)
        self.n_kept = n_filtered if self.last is None else len(self.last)
        if self.detrend and n_filtered == 1:
            _say_one_volume("Detrending")
            self.detrend = False
        # Filters are linear: as a matrix they cost n^2 v multiplications at the speed of a matrix product, which beats
        # the recursion as soon as the matrix, n recursions, is cheaper than the signals.
        pays = backend.name == "cuda" or v >= n_filtered
        self.dense = None
        if self.sections is not None and pays and n_filtered <= _LONGEST_DENSE:
            self.dense = backend.asarray(self._recursive(np.eye(n_filtered)), np.float64)

    def apply(self, x: Array) -> tuple[Array, Array]:
        """Return `(n_kept, w)` of `(n, w)`, and the means before trends were removed."""
        if self.fill is not None:
            x = self.backend.asarray(self.fill, np.float64) @ x
        elif self.first is not None:
            x = x[self.backend.asarray(self.first)]
        means = x.mean(axis=0)
        if self.detrend:
            x = _detrended(self.backend, x)
        if self.dense is not None:
            x = self.dense @ x
        elif self.sections is not None:
            x = self.backend.asarray(self._recursive(self.backend.to_numpy(x)), np.float64)
        if self.last is not None:
            x = x[self.backend.asarray(self.last)]
        return x, means

    def _recursive(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.signal import sosfiltfilt

        if self.sections is None:
            return x
        sos, options = self.sections
        return np.ascontiguousarray(sosfiltfilt(sos, x, axis=0, **options))


def _basis(backend: Backend, steps: _TimeSteps, confounds: NDArray[np.float64], standardize: bool) -> Array:
    """Return an orthonormal basis of the confounds, `(n_kept, rank)`."""
    from scipy.linalg import qr

    prepared, _ = steps.apply(backend.asarray(confounds, np.float64))
    if not standardize:
        columns = backend.to_numpy(prepared)
        largest = np.abs(columns).max(axis=0, initial=0)
        columns = columns / np.where(largest == 0, 1, largest)
    elif len(prepared) == 1:
        _say_one_volume("Standardization")
        columns = backend.to_numpy(prepared)
    else:
        columns = backend.to_numpy(_zscored(backend, prepared))
    q, r, _ = qr(columns, mode="economic", pivoting=True)
    sizes = np.abs(np.diag(r))  # descending
    # nilearn takes whatever exceeds 2e-14: of confounds with a mean of 1000 also the rounding errors of collinear ones.
    kept = (sizes > 100 * _EPS) & (sizes > _COLLINEAR * sizes.max(initial=0))
    return backend.asarray(np.ascontiguousarray(q[:, kept]), np.float64)


def _interpolation(keep: NDArray[np.intp], span: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Return the matrix that gives rows `span` of n rows: kept ones themselves, others by a cubic spline."""
    from scipy.interpolate import CubicSpline

    if (np.diff(keep) <= 0).any():
        raise DataError("sample_mask must be ascending, without repetitions, to interpolate the volumes left out")
    rows = np.zeros((len(span), n))
    lost = np.setdiff1d(span, keep)
    rows[keep - span[0], keep] = 1.0
    if len(lost):
        rows[np.ix_(lost - span[0], keep)] = CubicSpline(keep, np.eye(len(keep)))(lost)
    return rows


def _sections(cleaning: _Cleaning) -> tuple[NDArray[np.float64], dict[str, Any]] | None:
    """Return the second-order sections of the Butterworth filter and the options of its use; None leaves signals."""
    from scipy.signal import butter

    low, high = cleaning.low_pass, cleaning.high_pass
    if low is not None and high is not None and high >= low:
        raise UsageError(
            f"High pass cutoff frequency ({high}) is greater than or equal to low pass filter frequency ({low}). "
            "This case is not handled by this function."
        )
    rate = 1.0 / float(cleaning.t_r or 1)
    critical = [_below_nyquist(kind, f, rate / 2) for kind, f in (("high", high), ("low", low)) if f is not None]
    if len(critical) == 2 and critical[0] == critical[1]:
        exceptions.warn(
            "Signals are returned unfiltered because band-pass critical frequencies are equal. Please check that "
            "inputs for sampling_rate, low_pass, and high_pass are valid."
        )
        return None
    options = dict(cleaning.butterworth)
    order = options.pop("order", 5)
    options.pop("copy", None)
    unknown = set(options) - {"padtype", "padlen"}
    if unknown:
        raise TypeError(f"butterworth() got an unexpected keyword argument {min(unknown)!r}")
    if len(critical) == 2:
        return butter(order, critical, "band", output="sos", fs=rate), options
    return butter(order, critical[0], "low" if high is None else "high", output="sos", fs=rate), options


def _below_nyquist(kind: str, frequency: float, nyquist: float) -> float:
    """Return a frequency that a digital filter can have."""
    eps = float(np.finfo(np.float32).eps)
    if frequency >= nyquist:
        used = nyquist - nyquist * 10 * eps
        exceptions.warn(
            f"The frequency specified for the {kind} pass filter is too high to be handled by a digital filter "
            f"(superior to Nyquist frequency). It has been lowered to {used} (Nyquist frequency)."
        )
        return used
    if frequency < 0.0:
        used = nyquist * eps
        exceptions.warn(
            f"The frequency specified for the {kind} pass filter is too low to be handled by a digital filter (must be "
            f"non-negative). It has been set to eps: {used}."
        )
        return used
    return float(frequency)


def _detrended(backend: Backend, x: Array) -> Array:
    """Return `(n, w)` without mean and linear trend."""
    n = len(x)
    x = x - x[:1]  # exact: what does not vary becomes 0, whatever its size
    x = x - x.mean(axis=0)
    ramp = np.arange(n) - (n - 1) / 2
    ramp = backend.asarray(ramp / np.linalg.norm(ramp), np.float64)
    return x - ramp[:, None] * (ramp[None, :] @ x)


def _zscored(backend: Backend, x: Array) -> Array:
    """Return `(n, w)` with mean 0 and standard deviation 1; one row as it is, what does not vary 0."""
    if len(x) == 1:
        return x
    x = x - x[:1]
    x = x - x.mean(axis=0)
    deviation = backend.xp.sqrt((x * x).sum(axis=0) / (len(x) - 1))
    return x / backend.xp.where(deviation < _EPS, 1.0, deviation)


def _percent(x: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return percent of the mean; of the mean before cleaning, where cleaning has taken it away."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if np.abs(after).mean() / np.abs(before).mean() < 0.1:
            x = x + before
        means = x.mean(axis=0)
        zero = np.abs(means) < _EPS
        percent: NDArray[np.float64] = 100 * ((x - means) / np.abs(means))
    if zero.any():
        exceptions.warn(
            "psc standardization strategy is meaningless for features that have a mean of 0. These time series are set "
            "to 0."
        )
        percent[:, zero] = 0
    return percent


def _standardization(standardize: Any) -> str | None:
    if standardize not in _STANDARDIZE:
        raise UsageError(f"'standardize' must be one of {_STANDARDIZE}.\n'{standardize}' was provided.")
    if isinstance(standardize, bool):
        exceptions.warn(
            "boolean values for 'standardize' will be deprecated in nilearn 0.15.0.\n"
            "Use 'zscore_sample' instead of 'True' or use 'None' instead of 'False'.",
            FutureWarning,
        )
        return "zscore_sample" if standardize else None
    return None if standardize is None else str(standardize)


def _filter_kind(kind: Any, low_pass: float | None, high_pass: float | None, t_r: float | None) -> str | None:
    """Return the filter that is applied, None for none."""
    if kind not in ("butterworth", "cosine", False):
        raise UsageError(f"Filter method {kind} not implemented.")
    if kind is False:
        if low_pass is not None or high_pass is not None:
            exceptions.warn("No filter type selected but cutoff frequency provided.Will not perform filtering.")
        return None
    if kind == "cosine":
        if t_r is None or high_pass is None:
            raise UsageError(
                "Repetition time (t_r) and low cutoff frequency (high_pass) must be specified for cosine filtering. "
                f"Got: 't_r={t_r!r}' and 'high_pass={high_pass!r}'"
            )
        return "cosine"
    if low_pass is None and high_pass is None:
        return None
    if t_r is None:
        raise UsageError(f"Repetition time (t_r) must be specified for butterworth filtering. Got: 't_r={t_r!r}'")
    return "butterworth"


def _as_signals(signals: Any, ensure_finite: bool) -> NDArray[Any]:
    """Return signals in a floating type; a copy where something changes."""
    values = np.asarray(signals)
    if values.ndim != 2:
        raise DataError(f"signals has shape {values.shape}; expected (n_volumes, n_elements)")
    if values.dtype.kind != "f":
        values = values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if ensure_finite:
        broken = ~np.isfinite(values)
        if broken.any():
            values = np.where(broken, values.dtype.type(0), values)
    return values


def _members(runs: Any, n: int) -> list[NDArray[np.intp]]:
    """Return the volumes of each run, runs in ascending order."""
    if runs is None:
        return [np.arange(n)]
    runs = np.asarray(runs)
    if len(runs) != n:
        raise DataError(f"The length of the run vector ({len(runs)}) does not match the length of the signals ({n})")
    return [np.flatnonzero(runs == run) for run in np.unique(runs)]


def _chunk(backend: Backend, values: NDArray[Any], columns: Any, *, detrend: bool) -> Array:
    x = backend.asarray(np.ascontiguousarray(values[:, columns]), np.float64)
    return _detrended(backend, x) if detrend and len(x) > 1 else x


def _column_chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    width = max(1, _CHUNK_BYTES // (8 * max(1, shape[0])))
    return (slice(start, start + width) for start in range(0, shape[1], width))


def _say_one_volume(what: str) -> None:
    exceptions.warn(f"{what} of 3D signal has been requested but would lead to zero values. Skipping.")
