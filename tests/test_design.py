"""The partition of a design by a contrast, against the textbook GLM by pseudo-inverse."""

from __future__ import annotations

import numpy as np
import pytest

from gpuroi.errors import DataError
from gpuroi.inference.design import decompose, partition


def textbook(design, data, rows):
    """Estimates, their variance factor and t or F of contrast rows, by pseudo-inverse."""
    rows = np.atleast_2d(rows)
    beta = np.linalg.pinv(design) @ data
    residual = data - design @ beta
    df = len(design) - np.linalg.matrix_rank(design)
    s2 = (residual**2).sum(0) / df
    factor = rows @ np.linalg.pinv(design.T @ design) @ rows.T
    estimate = rows @ beta
    r = np.linalg.matrix_rank(rows)
    f = (estimate * (np.linalg.pinv(factor) @ estimate)).sum(0) / r / s2
    return estimate, factor, f, df


def designs(rng):
    n = 24
    groups = np.eye(3)[np.arange(n) % 3]
    age = rng.normal(50, 10, n)
    yield "full", np.column_stack([rng.normal(size=(n, 3)), np.ones(n)]), [[1, 0, 0, 0], [0, 1, -1, 0], [0.5, 0, 2, 3]]
    yield "means", groups, [[1, -1, 0], [1, -0.5, -0.5], [0, 0, 1]]
    yield "overparametrised", np.column_stack([np.ones(n), groups, age]), [[0, 1, -1, 0, 0], [1, 1, 0, 0, 0]]
    yield "zero column", np.column_stack([np.ones(n), np.zeros(n), age]), [[0, 0, 1], [1, 0, 40]]
    yield "collinear nuisance", np.column_stack([groups, age, 3 * age - 2]), [[1, -1, 0, 0, 0]]
    yield "no nuisance", np.ones((n, 1)), [[1], [-2]]


CASES = [pytest.param(x, c, id=f"{name}-{c}") for name, x, rows in designs(np.random.default_rng(0)) for c in rows]


@pytest.mark.parametrize(("design", "contrast"), CASES)
def test_t_parts_agree_with_the_textbook(design, contrast):
    data = np.random.default_rng(1).normal(size=(len(design), 50)) + 1
    part = partition(design, contrast)
    estimate, factor, f, df = textbook(design, data, contrast)
    assert (part.kind, part.r, part.df) == ("t", 1, df)
    assert part.rank == np.linalg.matrix_rank(design)
    u = part.x_orth.T @ data
    np.testing.assert_allclose(part.effect_factor @ u, estimate, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(part.effect_factor @ part.effect_factor.T, factor, rtol=1e-9)
    e = data - part.z @ (part.z.T @ data)
    t = u[0] * np.sqrt(df / ((e**2).sum(0) - u[0] ** 2))
    np.testing.assert_allclose(t, np.sign(estimate[0]) * np.sqrt(f), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("design", "contrast"), CASES)
def test_partition_spans_the_design_and_has_the_contrast_as_coefficient(design, contrast):
    part = partition(design, contrast)
    model = np.column_stack([part.x, part.z])
    assert model.shape[1] == part.rank
    both = np.linalg.matrix_rank(np.column_stack([design / np.abs(design).max(), model / np.abs(model).max()]))
    assert both == part.rank
    np.testing.assert_allclose(part.x.T @ part.z, 0, atol=1e-10 * np.abs(part.x).max())
    np.testing.assert_allclose(part.z.T @ part.z, np.eye(part.z.shape[1]), atol=1e-12)
    np.testing.assert_allclose(part.x_orth.T @ part.x_orth, np.eye(part.r), atol=1e-12)
    data = np.random.default_rng(2).normal(size=(len(design), 20))
    estimate = textbook(design, data, contrast)[0]
    np.testing.assert_allclose((np.linalg.pinv(model) @ data)[:1], estimate, rtol=1e-9, atol=1e-11)


def test_nuisance_is_the_design_where_the_contrast_is_zero():
    rng = np.random.default_rng(3)
    design = rng.normal(size=(20, 4))
    contrast = np.array([[1.0, -1, 0, 0], [0, 1, 0, 2]])
    part = partition(design, contrast)
    left = np.linalg.svd(contrast)[2][2:].T
    reduced = design @ left
    np.testing.assert_allclose(part.z @ part.z.T, reduced @ np.linalg.pinv(reduced), atol=1e-12)


@pytest.mark.parametrize(
    "contrast",
    [
        [[1, -1, 0, 0], [0, 1, -1, 0]],
        [[1, -1, 0, 0], [0, 1, -1, 0], [1, 0, -1, 0]],
        [[1, -1, 0, 0], [1e6, -1e6, 0, 0], [1e-6, 0, -1e-6, 0]],
        [[0, 0, 0, 1]],
    ],
)
def test_f_agrees_with_the_textbook_also_with_redundant_rows(contrast):
    rng = np.random.default_rng(4)
    design = np.column_stack([np.eye(3)[np.arange(21) % 3], rng.normal(size=21)])
    data = rng.normal(size=(21, 40))
    part = partition(design, contrast)
    rank = np.linalg.matrix_rank(np.array(contrast) / np.abs(contrast).max(axis=1, keepdims=True))
    assert (part.kind, part.r) == ("F", rank)
    unit = np.array(contrast) / np.linalg.norm(contrast, axis=1, keepdims=True)
    f = textbook(design, data, unit)[2]
    u = part.x_orth.T @ data
    e = data - part.z @ (part.z.T @ data)
    s = (e**2).sum(0) - (u**2).sum(0)
    np.testing.assert_allclose((u**2).sum(0) / part.r / (s / part.df), f, rtol=1e-9)
    if rank == len(contrast):
        np.testing.assert_allclose(part.effect_factor @ u, textbook(design, data, contrast)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, 1e100])
def test_units_of_a_covariate_change_nothing_but_its_estimate(scale):
    rng = np.random.default_rng(5)
    design = np.column_stack([np.eye(2)[np.arange(18) % 2], rng.normal(size=18)])
    scaled = design * [1, 1, scale]
    for contrast in ([1, -1, 0], [0, 0, 1]):
        one, other = partition(design, contrast), partition(scaled, contrast)
        np.testing.assert_allclose(other.x_orth, one.x_orth, atol=1e-12)
        np.testing.assert_allclose(other.z @ other.z.T, one.z @ one.z.T, atol=1e-12)
        ratio = scale if contrast[2] else 1
        np.testing.assert_allclose(other.effect_factor * ratio, one.effect_factor, rtol=1e-11)


def test_a_sign_of_the_contrast_is_the_sign_of_t():
    design = np.column_stack([np.ones(12), np.arange(12)])
    up, down = partition(design, [0, 1]), partition(design, [0, -1])
    np.testing.assert_allclose(up.x_orth, -down.x_orth, atol=1e-14)
    assert up.x_orth[-1, 0] > 0


def test_constant_regressors_of_interest_are_told():
    assert partition(np.ones((8, 1)), [1]).constant
    centred = np.column_stack([np.ones(9), np.arange(9) - 4])
    assert partition(centred, [1, 0]).constant
    assert not partition(centred, [0, 1]).constant
    assert not partition(np.eye(2)[np.arange(9) % 2], [1, -1]).constant


def test_a_decomposition_serves_several_contrasts():
    basis = decompose(np.eye(3)[np.arange(12) % 3])
    for contrast in ([1, 0, 0], [0, 1, -1]):
        np.testing.assert_array_equal(
            partition(basis, contrast).x_orth, partition(np.eye(3)[np.arange(12) % 3], contrast).x_orth
        )
    assert basis.holds_constant
    assert not decompose(np.arange(5.0)[:, None]).holds_constant


def test_not_estimable_names_the_contrast_and_the_regressors():
    groups = np.eye(2)[np.arange(10) % 2]
    design = np.column_stack([np.ones(10), groups, np.arange(10)])
    with pytest.raises(DataError, match=r"group [\s\S]*\[0., 1., 0., 0.\] is not estimable: mean, a, b depend"):
        partition(design, [0, 1, 0, 0], name="group effect", names=["mean", "a", "b", "age"])
    with pytest.raises(DataError, match="not estimable: regressor 2 is 0 in every observation"):
        partition(np.column_stack([np.ones(6), np.zeros(6)]), [0, 1])
    with pytest.raises(DataError, match="not estimable"):
        partition(design, [[0, 1, -1, 0], [0, 1, 1, 0]])


@pytest.mark.parametrize(
    ("design", "contrast", "message"),
    [
        (np.ones((5, 1)), [0], "contrast is 0 everywhere"),
        (np.ones((5, 1)), [[1], [0]], "contrast is 0 everywhere in a row"),
        (np.ones((5, 1)), [1, 0], "2 weights and the design has 1 regressors"),
        (np.ones((5, 1)), [], "0 weights"),
        (np.ones((5, 1)), 1.0, "no row or table"),
        (np.ones((5, 1)), [np.nan], "NaN or infinity"),
        (np.ones((5, 1)), ["a"], "no row or table"),
        (np.ones(5), [1], r"shape \(5,\)"),
        (np.ones((0, 2)), [1, 0], r"shape \(0, 2\)"),
        (np.array([[1.0, 2], [1, np.nan], [1, 3], [1, 1]]), [1, 0], "NaN or infinite, the first in row 2, column 2"),
        (np.array([[1.0], [np.inf], [1]]), [1], "first in row 2, column 1"),
        (np.eye(3), [1, 0, 0], "3 observations and 3 independent regressors"),
        (np.ones((1, 1)), [1], "no degrees of freedom"),
        (np.zeros((4, 2)), [1, 0], "the design is 0 everywhere"),
        (np.array([["a"], ["b"]]), [1], "dtype"),
        (np.ones((4, 1)) * 1j, [1], "dtype"),
    ],
)
def test_bad_input_is_one_clear_error(design, contrast, message):
    with pytest.raises(DataError, match=message):
        partition(design, contrast)
