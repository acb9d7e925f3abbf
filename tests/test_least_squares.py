"""The kernel of the linear model: right to 12 digits however little a fit leaves, and blind to neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuroi.backends.kernels.least_squares import fit_columns
from gpuroi.inference import glm


def basis(n, rank, seed=0):
    columns = np.column_stack([np.ones(n), np.random.default_rng(seed).standard_normal((n, rank - 1))])
    return np.ascontiguousarray(np.linalg.qr(columns)[0])


def fitted(y, u, shift):
    a, size, left = np.empty((u.shape[1], y.shape[1])), np.empty(y.shape[1]), np.empty(y.shape[1])
    fit_columns(y, u, shift, a, size, left)
    return a, size, left


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [9, 16, 203])
@pytest.mark.parametrize("rank", [1, 4, 7])
@pytest.mark.parametrize("noise", [1.0, 1e-3, 1e-6])
def test_sums_are_those_of_residuals_in_long_double(dtype, n, rank, noise):
    u = basis(n, rank)
    rng = np.random.default_rng(1)
    y = (u @ rng.standard_normal((rank, 130)) + noise * rng.standard_normal((n, 130)) + 50).astype(dtype)
    shift = y[0].astype(np.float64)
    a, size, left = fitted(y, u, shift)
    d = y.astype(np.longdouble) - shift
    want = u.T.astype(np.longdouble) @ d
    rest = d - u @ want
    np.testing.assert_allclose(a, want.astype(float), rtol=1e-11, atol=1e-13 * np.abs(want).max())
    np.testing.assert_allclose(size, (d * d).sum(axis=0).astype(float), rtol=1e-13)
    # Rounding of the basis itself, 1e-16, is what is left of a fit that leaves next to nothing.
    np.testing.assert_allclose(left, (rest * rest).sum(axis=0).astype(float), rtol=2e-11 if noise > 1e-5 else 1e-7)


@given(lo=st.integers(0, 299), width=st.integers(1, 300), order=st.sampled_from("CF"))
def test_a_column_has_the_same_bits_whatever_is_beside_it(lo, width, order):
    u = basis(37, 3)
    y = np.random.default_rng(2).standard_normal((37, 300)).astype(np.float32)
    y[:, 40] = u[:, 1] * 1000 + 1e-3 * y[:, 40]  # takes the second pass
    y[:, 41] = np.nan
    shift = y[0].astype(np.float64)
    whole = fitted(y, u, shift)
    hi = min(300, lo + width)
    some = fitted(np.asarray(y[:, lo:hi], order=order), u, shift[lo:hi])
    for one, other in zip(some, whole, strict=True):
        np.testing.assert_array_equal(one, other[..., lo:hi])


def test_nearly_exact_fits_keep_their_digits():
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(60), rng.standard_normal((60, 3))])
    noise = rng.standard_normal((60, 8))
    y = 1e6 + x @ rng.standard_normal((4, 8)) * 1e3 + noise
    beta, rest, *_ = np.linalg.lstsq(x, y, rcond=None)
    want = beta[1] / np.sqrt(np.linalg.inv(x.T @ x)[1, 1] * rest / 56)
    np.testing.assert_allclose(glm(y, x, [0, 1, 0, 0]).statistic, want, rtol=1e-8)
