"""Whole maps of t or F to z by a table: as `t_to_z` and `f_to_z` to 1e-9, a hundred times faster."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError
from gpuroi.inference.zscore import f_to_z, t_slope, t_to_z, z_to_f, z_to_t

__all__ = ["FZTable", "ZTable"]

_PER_UNIT = 128  # intervals for a unit of t, or of log F: errors of a cubic fall with the fourth power
_T_MAX = 50.0
_LOG_F_MIN, _LOG_F_MAX = -25.0, math.log(2500.0)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class ZTable:
    """Convert maps of t with one number of degrees of freedom to z.

    Parameters
    ----------
    df : float
        Degrees of freedom, > 0.

    Raises
    ------
    UsageError
        df that is not positive.

    Notes
    -----
    A cubic Hermite table of sizes of t up to 50 (205 kB; 5 ms to make), exact tails beyond. Relative error below 1e-9
    of `t_to_z`, odd to the last bit, monotone.

    Examples
    --------
    >>> import numpy as np
    >>> table = ZTable(20)
    >>> table.to_z(np.array([-2.0, 0.0, 60.0])).round(6).tolist()
    [-1.886218, 0.0, 10.116237]
    >>> round(table.to_t(3.1), 6)
    3.566004
    """

    def __init__(self, df: float) -> None:
        self.df = float(df)
        grid = np.arange(int(_T_MAX) * _PER_UNIT + 1) / _PER_UNIT
        values = t_to_z(grid, self.df)
        self._table = _Cubics(values, t_slope(grid, values, self.df) / _PER_UNIT)

    def to_z(self, t: Array, out: Array | None = None) -> Array:
        """Convert maps.

        Parameters
        ----------
        t : float32 or float64 array, any shape, NumPy or CuPy
            Student's t.
        out : array, shape, dtype and device of `t`, C-contiguous, optional
            Where to write; may be `t` itself.

        Returns
        -------
        z : array, shape, dtype and device of `t`
            NaN stays NaN, inf stays inf. On CUDA one bool is read per call (is any value beyond the table?).
        """
        return _convert(t, out, -_T_MAX, _T_MAX, lambda far: t_to_z(far, self.df), self._read, self._read_device)

    def to_t(self, z: float) -> float:
        """Return the t of a threshold on the z scale, by the exact tails."""
        return float(z_to_t(z, self.df))

    def _read(self, t: NDArray[Any], out: NDArray[Any], start: int, stop: int) -> None:
        from gpuroi.backends.kernels.z_table import odd_cubic

        odd_cubic(t, self._table.host, float(_PER_UNIT), out, start, stop)

    def _read_device(self, backend: Backend, t: Array) -> Array:
        return backend.xp.copysign(self._table.at(backend, backend.xp.abs(t) * _PER_UNIT), t)


class FZTable:
    """Convert maps of F with one pair of degrees of freedom to z.

    Parameters
    ----------
    df1, df2 : float
        Degrees of freedom, > 0.

    Raises
    ------
    UsageError
        df that is not positive.

    Notes
    -----
    A cubic Hermite table of z over log F, for F from 1e-11 to 2500, exact tails outside. Error below 1e-9 times
    max(1, |z|) of `f_to_z`; negative F gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> table = FZTable(2, 6)
    >>> table.to_z(np.array([0.1, 13.0])).round(6).tolist()
    [-1.318393, 2.478771]
    >>> round(table.to_f(2.3), 6)
    10.604027
    """

    def __init__(self, df1: float, df2: float) -> None:
        self.df1, self.df2 = float(df1), float(df2)
        log_f = np.linspace(_LOG_F_MIN, _LOG_F_MAX, math.ceil((_LOG_F_MAX - _LOG_F_MIN) * _PER_UNIT) + 1)
        self._per_unit = (log_f.size - 1) / (_LOG_F_MAX - _LOG_F_MIN)
        values = f_to_z(np.exp(log_f), self.df1, self.df2)
        self._table = _Cubics(values, self._slope(log_f, values) / self._per_unit)

    def to_z(self, F: Array, out: Array | None = None) -> Array:
        """Convert maps; arguments and result as of `ZTable.to_z`."""
        low, high = math.exp(_LOG_F_MIN), math.exp(_LOG_F_MAX)
        return _convert(F, out, low, high, lambda far: f_to_z(far, self.df1, self.df2), self._read, self._read_device)

    def to_f(self, z: float) -> float:
        """Return the F of a threshold on the z scale, by the exact tails."""
        return z_to_f(z, self.df1, self.df2)

    def _slope(self, log_f: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Slope of z over log F: the density of log F over that of z."""
        from scipy.special import betaln

        half1, half2 = self.df1 / 2, self.df2 / 2
        log_ratio = log_f + math.log(self.df1 / self.df2)  # log(df1 F / df2)
        log_density = half1 * log_ratio - (half1 + half2) * np.logaddexp(0.0, log_ratio) - betaln(half1, half2)
        slope: NDArray[np.float64] = np.exp(log_density + 0.5 * z * z + _LOG_SQRT_2PI)
        return slope

    def _read(self, F: NDArray[Any], out: NDArray[Any], start: int, stop: int) -> None:
        from gpuroi.backends.kernels.z_table import cubic_of_log

        cubic_of_log(F, self._table.host, _LOG_F_MIN, self._per_unit, out, start, stop)

    def _read_device(self, backend: Backend, F: Array) -> Array:
        return self._table.at(backend, (backend.xp.log(F) - _LOG_F_MIN) * self._per_unit)


class _Cubics:
    """One cubic an interval, `(intervals, 4)`, lowest coefficient first; on the host, and on devices as they ask."""

    def __init__(self, values: NDArray[np.float64], slopes: NDArray[np.float64]) -> None:
        rise, s0, s1 = np.diff(values), slopes[:-1], slopes[1:]
        self.host = np.ascontiguousarray(
            np.stack([values[:-1], s0, 3 * rise - 2 * s0 - s1, s0 + s1 - 2 * rise], axis=1)
        )
        self._device: dict[str, Array] = {}

    def at(self, backend: Backend, place: Array) -> Array:
        """The cubics at places counted in intervals, by array functions; NaN stays NaN."""
        xp = backend.xp
        if backend.device not in self._device:
            self._device[backend.device] = backend.asarray(np.ascontiguousarray(self.host.T))
        c0, c1, c2, c3 = self._device[backend.device]
        whole = xp.where(place > 0, xp.minimum(place, len(self.host) - 1), 0.0).astype(np.int64)
        u = place - whole
        return c0[whole] + u * (c1[whole] + u * (c2[whole] + u * c3[whole]))


def _convert(
    values: Array,
    out: Array | None,
    low: float,
    high: float,
    exact: Callable[[Array], Array],
    read: Callable[[NDArray[Any], NDArray[Any], int, int], None],
    read_device: Callable[[Backend, Array], Array],
) -> Array:
    backend = backend_of(values, out)
    xp = backend.xp
    if getattr(values, "dtype", None) not in (np.float32, np.float64):
        values = backend.asarray(values, dtype=np.float64)
    source = xp.ascontiguousarray(values)
    if out is None:
        out = xp.empty(source.shape, dtype=source.dtype)
    elif out.shape != values.shape or out.dtype != values.dtype or not out.flags.c_contiguous:
        raise DataError(
            f"out is {out.dtype} of shape {tuple(out.shape)}, expected {values.dtype} of shape {tuple(values.shape)}",
            "out must be C-contiguous; leave it away to get a new array",
        )
    flat, target = source.reshape(-1), out.reshape(-1)
    if backend.name == "cpu":
        _convert_host(flat, target, low, high, exact, read)
        return out
    with np.errstate(all="ignore"):
        wide = flat.astype(np.float64)
        outside = (wide < low) | (wide > high)
        z = read_device(backend, wide)
        if bool(outside.any()):  # sync: reads one bool
            z[outside] = exact(wide[outside])
        target[...] = z.astype(out.dtype)
    return out


def _convert_host(
    flat: NDArray[Any],
    target: NDArray[Any],
    low: float,
    high: float,
    exact: Callable[[NDArray[Any]], NDArray[Any]],
    read: Callable[[NDArray[Any], NDArray[Any], int, int], None],
) -> None:
    from gpuroi.backends.kernels.z_table import beyond
    from gpuroi.backends.threads import run_blocks

    def block(start: int, stop: int) -> None:
        far = beyond(flat, low, high, start, stop)  # before `read`, which may write over what it reads
        values = flat[far].astype(np.float64)
        read(flat, target, start, stop)
        if far.size:
            target[far] = exact(values)

    run_blocks(block, flat.size, least=4096)
