"""One comparison for all tests: kind, shape, dtype and device first, values last."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends.base import Backend

__all__ = ["check", "host"]


def check(got: Any, want: ArrayLike, *, backend: Backend | None = None, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Assert that `got` is the array `want`, on the right device.

    Parameters
    ----------
    got : array
        What the code under test returned.
    want : array_like
        Expected values, on the host; their shape and dtype count too.
    backend : Backend, optional
        Whose array it has to be, on its device; NumPy's by default.
    rtol, atol : float, default 0
        As for `numpy.testing.assert_allclose`; NaN equals NaN. Both 0: equal.

    Raises
    ------
    AssertionError
    """
    want = np.asarray(want)
    if backend is None or backend.name == "cpu":
        assert isinstance(got, np.ndarray | np.generic), f"expected a NumPy array, got {type(got)}"
    else:
        assert backend.owns(got), f"expected an array of {backend.name}, got {type(got)}"
        assert f"cuda:{int(got.device.id)}" == backend.device, f"on cuda:{int(got.device.id)}, not on {backend.device}"
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    assert got.dtype == want.dtype, f"dtype {got.dtype}, expected {want.dtype}"
    values = host(got)
    if rtol == 0.0 and atol == 0.0:
        assert_array_equal(values, want)
    else:
        assert_allclose(values, want, rtol=rtol, atol=atol, equal_nan=True)


def host(array: Any) -> NDArray[Any]:
    """The array on the host, wherever it is."""
    return np.asarray(array.get() if type(array).__module__.partition(".")[0] == "cupy" else array)
