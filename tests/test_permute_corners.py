"""Corners of the permutation test: ties, exact fits, states, domains; by brute force where there is an answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from test_permute import brute_force, example

from gpuroi.domains import ParcelGraph, SurfaceMesh, VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.inference import permutation_test, tfce

GRID = VoxelGrid(np.ones((3, 3, 3), bool))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("contrast", [[0, 1], [[0, 1]]], ids=["t", "F"])
def test_what_the_nuisance_explains_in_full_has_the_statistic_0(backend, dtype, contrast):
    # Residuals of +-1/2: some flips make them constant, and the nuisance explains all of a constant.
    y = np.array([[1, 1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0, 0, 1]], dtype).T
    x = np.column_stack([np.ones(8), np.arange(8.0) ** 2])
    rows = np.arange(1, 9) * np.array([[1] * 8, [1, 1, -1, -1] * 2, [-1, -1, 1, 1] * 2, [1, -1] * 4])
    result = permutation_test(backend.asarray(y[:, :1]), x, contrast, permutations=rows)
    want = [np.abs(brute_force(x, y[:, :1].astype(float), contrast, row, "freedman-lane"))[0] for row in rows[[0, 3]]]
    np.testing.assert_allclose(result.null["max_stat"], [want[0], 0, 0, want[1]], rtol=1e-4)
    both = permutation_test(backend.asarray(y), x, contrast, errors="ise")
    assert np.isfinite(both.null["max_stat"]).all()
    assert both.null["max_stat"].max() < 1e3


def test_large_t_of_float32_data_have_their_digits(backend):
    y = (1 + 1e-3 * np.random.default_rng(0).standard_normal((20, 30))).astype(np.float32)
    result = permutation_test(backend.asarray(y), np.ones((20, 1)), [1], errors="ise", n_permutations=200)
    want = stats.ttest_1samp(y.astype(np.float64), 0).statistic  # 3000 to 7000
    np.testing.assert_allclose(result.statistic, want, rtol=1e-6)
    f = permutation_test(backend.asarray(y), np.ones((20, 1)), [[1]], errors="ise", n_permutations=200)
    np.testing.assert_allclose(f.statistic, want**2, rtol=1e-6)


def test_what_it_ran_can_be_written_however_many_rearrangements_there_are():
    y = np.random.default_rng(0).standard_normal((1700, 3))  # 1700! has more digits than Python writes
    result = permutation_test(y, np.column_stack([np.ones(1700), np.arange(1700.0)]), [0, 1], n_permutations=2)
    assert result.settings["n_distinct"] == "3.00e4755"
    assert "3.00e4755" in json.dumps(result.settings, default=str)
    few = permutation_test(y[:5], np.column_stack([np.ones(5), np.arange(5.0)]), [0, 1], device="cpu")
    assert few.settings["n_distinct"] == 120


def domains():
    """One of each kind, 27 elements, with unequal weights where there are such."""
    rng = np.random.default_rng(5)
    mask = np.zeros((4, 4, 4), bool)
    mask.flat[rng.permutation(64)[:27]] = True
    affine = np.diag([2.0, 3.0, 1.5, 1.0])
    ids = np.sort(rng.permutation(90)[:27] + 1)
    edges = np.array([(ids[i], ids[j]) for i in range(27) for j in range(i) if rng.random() < 0.12])
    across, down = np.meshgrid(np.arange(9.0), np.arange(3.0))
    vertices = np.column_stack([across.ravel() ** 1.3, down.ravel(), np.zeros(27)])
    faces = [(9 * r + c, 9 * r + c + 1, 9 * r + c + 9) for r in range(2) for c in range(8)]
    faces += [(9 * r + c + 1, 9 * r + c + 10, 9 * r + c + 9) for r in range(2) for c in range(8)]
    return [
        VoxelGrid(mask, affine, 18, weights="mm3"),
        ParcelGraph(ids, edges, rng.uniform(1, 9, 27)),
        SurfaceMesh(vertices, np.array(faces), weights="mm2"),
    ]


def largest_clusters(values, threshold, domain, two_sided):
    """Size and mass by search from element to element."""
    best = np.zeros(2)
    for sign in (1, -1) if two_sided else (1,):
        left = set(np.flatnonzero(sign * values > threshold).tolist())
        while left:
            found, todo = set(), [left.pop()]
            while todo:
                i = todo.pop()
                found.add(i)
                near = set(domain.indices[domain.indptr[i] : domain.indptr[i + 1]].tolist()) & left
                left -= near
                todo += near
            members = sorted(found)
            best = np.maximum(best, [domain.weights[members].sum(), np.abs(values[members]).sum()])
    return best


def stepped_tfce(values, domain, dh):
    """Largest enhancement of either sign: the sum that the integral is the limit of."""
    best = 0.0
    for sign in (1, -1):
        x, total = sign * values, np.zeros(27)
        for h in np.arange(dh / 2, x.max(initial=0), dh):
            for i in np.flatnonzero(x > h):
                total[i] += extent(i, x > h, domain) ** 0.5 * h**2 * dh
        best = max(best, total.max())
    return best


def extent(start, inside, domain):
    found, todo = {start}, [start]
    while todo:
        i = todo.pop()
        near = {j for j in domain.indices[domain.indptr[i] : domain.indptr[i + 1]].tolist() if inside[j]} - found
        found |= near
        todo += near
    return domain.weights[sorted(found)].sum()


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("domain", domains(), ids=["mm3", "parcels", "mm2"])
def test_clusters_with_weights_equal_brute_force_with_elements_left_out(backend, domain, two_sided):
    x, y = example(n=9, v=27)
    y[:, 12:] += y[:, :15]
    y[:, [3, 20]] = 4.0
    rng = np.random.default_rng(3)
    rows = np.array([np.arange(1, 10), *(rng.permutation(9) + 1 for _ in range(69))])
    result = permutation_test(
        backend.asarray(y),
        x,
        [0, 1, 0, 0],
        domain=domain,
        permutations=rows,
        cluster_threshold=1.0,
        tfce=True,
        tfce_E=0.5,
        two_sided=two_sided,
    )
    tested = np.ones(27, bool)
    tested[[3, 20]] = False
    maps = np.zeros((70, 27))
    maps[:, tested] = [brute_force(x, y[:, tested], [0, 1, 0, 0], row, "freedman-lane") for row in rows]
    size, mass = np.array([largest_clusters(m, 1.0, domain, two_sided) for m in maps]).T
    np.testing.assert_allclose(result.null["max_size"], size, rtol=1e-9)
    np.testing.assert_allclose(result.null["max_mass"], mass, rtol=1e-7)
    table = result.cluster_table
    assert len(table) > 0
    want = [(mass >= m * (1 - 1e-9)).mean() for m in table["mass"]]
    np.testing.assert_allclose(table["p_mass_fwe"], want)
    np.testing.assert_allclose(table["p_size_fwe"], [(size >= s * (1 - 1e-9)).mean() for s in table["size"]])
    for row in table.itertuples():
        here = result.cluster_labels == row.label
        assert row.peak == np.flatnonzero(here)[np.argmax(np.abs(maps[0][here]))]
        np.testing.assert_allclose(row.peak_stat, maps[0][row.peak], rtol=1e-9)
        np.testing.assert_allclose(row.size, domain.weights[here].sum())
    assert np.isnan(result.p[[3, 20]]).all()
    assert np.isnan(result.tfce_p_fwe[[3, 20]]).all()
    if two_sided:
        want = [stepped_tfce(m, domain, 0.002) for m in maps[:3]]
        np.testing.assert_allclose(result.null["max_tfce"][:3], want, rtol=0.01)


@pytest.mark.parametrize("flips", ["random", "group"])
@pytest.mark.parametrize("mass", ["sum", "excess"])
def test_flipping_all_signs_ties_with_the_observed_data(backend, flips, mass):
    # t in the hundreds: float32 sums in another order move them by 1e-4, and TFCE by three times that.
    y = (1 + 0.05 * np.random.default_rng(0).standard_normal((8, 27))).astype(np.float32)
    result = permutation_test(
        backend.asarray(y),
        np.ones((8, 1)),
        [1],
        errors="ise",
        flips=flips,
        domain=GRID,
        cluster_threshold=3.0,
        cluster_mass=mass,
        tfce=True,
    )
    assert result.n_permutations == 256
    assert result.p.min() >= 2 / 256
    assert result.p_fwe.min() == 2 / 256
    assert result.tfce_p_fwe.min() == 2 / 256
    assert result.cluster_table["p_mass_fwe"].tolist() == [2 / 256]
    assert result.cluster_table["p_size_fwe"].tolist() == [2 / 256]


@pytest.mark.parametrize("flips", ["random", "group"])
def test_early_stopping_of_an_exhaustive_test_agrees_with_the_whole_of_it(flips):
    # In the order in which they are listed, the first flips turn the first subjects alone.
    y = np.random.default_rng(0).standard_normal((12, 300)) + 1.2
    y[:6] -= 1.2
    whole = permutation_test(y, np.ones((12, 1)), [1], errors="ise", flips=flips, device="cpu")
    early = permutation_test(y, np.ones((12, 1)), [1], errors="ise", flips=flips, early_stop=20, device="cpu")
    assert whole.exhaustive
    stopped = early.null["n_run"] < whole.n_permutations
    assert stopped.sum() > 200
    np.testing.assert_array_equal(early.p[~stopped], whole.p[~stopped])
    ratio = early.p / whole.p  # of 20 exceedances: its spread is 22 % at most, to the right a little more
    assert np.mean((ratio > 0.5) & (ratio < 2.2)) > 0.98


def test_one_sided_v_counts_the_identity_below_0_too():
    groups = np.repeat([0, 1], 6)
    x = np.eye(2)[groups]
    y = np.random.default_rng(0).standard_normal((12, 50))
    one = permutation_test(
        y, x, [1, -1], variance_groups=groups, two_sided=False, permutations=np.arange(1, 13)[None], device="cpu"
    )
    np.testing.assert_array_equal(one.p, 1.0)
    np.testing.assert_array_equal(one.p_fwe, 1.0)


def test_a_state_goes_on_with_its_own_test_only():
    x, y = example(n=12, v=27)
    asked = {"domain": GRID, "tfce": True, "n_permutations": 300, "device": "cpu"}
    states = []
    permutation_test(y, x, [0, 1, 0, 0], checkpoint=states.append, **asked)
    other = np.ones((3, 3, 4), bool)
    other[..., 1] = False
    changes = [
        {"tfce_connectivity": 26},
        {"domain": VoxelGrid(other & (np.arange(4) != 1))},
        {"seed": 1},
        {"errors": "both"},
        {"method": "ter-braak"},
    ]
    for change in changes:
        with pytest.raises(DataError, match="another test"):
            permutation_test(y, x, [0, 1, 0, 0], resume=states[1], **(asked | change))
    left_out = y.copy()
    left_out[:, 3] = 1
    moved = left_out[:, [*range(3), 4, 3, *range(5, 27)]]  # the same residuals elsewhere
    permutation_test(left_out, x, [0, 1, 0, 0], checkpoint=states.append, **asked)
    with pytest.raises(DataError, match="another test"):
        permutation_test(moved, x, [0, 1, 0, 0], resume=states[-1], **asked)


def test_a_state_of_an_explicit_list_knows_its_late_rows():
    x, y = example(n=9, v=20)
    rng = np.random.default_rng(0)
    rows = np.array([np.arange(1, 10), *(rng.permutation(9) + 1 for _ in range(199))])
    states = []
    permutation_test(y, x, [0, 1, 0, 0], permutations=rows, checkpoint=states.append, device="cpu")
    rows[150] = rows[150, ::-1]
    with pytest.raises(DataError, match="another test"):
        permutation_test(y, x, [0, 1, 0, 0], permutations=rows, resume=states[0], device="cpu")


def test_a_state_is_a_copy_and_a_finished_one_goes_on_to_the_result():
    x, y = example(n=12, v=20)
    states = []

    def keep_and_spoil(state):
        states.append(state)
        if len(states) == 1:
            return
        state.counts[:] = -1
        state.null["max_stat"][:] = np.nan

    want = permutation_test(y, x, [0, 1, 0, 0], n_permutations=150, device="cpu")
    got = permutation_test(y, x, [0, 1, 0, 0], n_permutations=150, device="cpu", checkpoint=keep_and_spoil)
    np.testing.assert_array_equal(got.p, want.p)
    first = states[0]
    for _ in range(2):  # resuming leaves the state as it was
        again = permutation_test(y, x, [0, 1, 0, 0], n_permutations=150, device="cpu", resume=first)
        np.testing.assert_array_equal(again.p, want.p)
        np.testing.assert_array_equal(again.null["max_stat"], want.null["max_stat"])


def test_the_settings_say_the_neighbours_of_tfce():
    x, y = example(n=9, v=27)
    asked = {"domain": GRID, "tfce": True, "n_permutations": 10, "device": "cpu"}
    assert permutation_test(y, x, [0, 1, 0, 0], **asked).settings["tfce_connectivity"] == 6
    assert permutation_test(y, x, [0, 1, 0, 0], tfce_connectivity=18, **asked).settings["tfce_connectivity"] == 18


def test_observations_without_data_are_named():
    x, y = example(n=9, v=20)
    y[[2, 7]] = np.nan
    with pytest.raises(DataError, match=r"2 of 9 observations .*rows 3, 8"):
        permutation_test(y, x, [0, 1, 0, 0], device="cpu")


def test_a_cluster_threshold_that_looks_like_a_p_value_is_said(caplog):
    x, y = example(n=9, v=27)
    permutation_test(y, x, [0, 1, 0, 0], domain=GRID, cluster_threshold=0.05, n_permutations=10, device="cpu")
    assert "is it a p-value" in caplog.text


def test_an_effect_that_permutations_move_by_the_nuisance_alone_is_said(caplog):
    y = np.random.default_rng(0).standard_normal((12, 10))
    age = np.linspace(20, 60, 12) ** 1.1
    blocks = np.repeat([0, 1, 2], 4)
    between, within = np.repeat([0.0, 1, 0], 4), np.tile([0.0, 1, 0, 0], 3)
    one = np.ones(12)
    warned = [
        (np.column_stack([one, age]), [1, 0], {}),  # a mean beside a covariate that is not centred
        (np.column_stack([one, between, age]), [0, 1, 0], {"blocks": blocks}),
        (np.column_stack([one, within, age]), [0, 1, 0], {"blocks": blocks, "whole_blocks": True}),
    ]
    for x, contrast, asked in warned:
        caplog.clear()
        permutation_test(y, x, contrast, n_permutations=200, device="cpu", **asked)
        assert "p is not to be relied on" in caplog.text
    sound = [
        (np.column_stack([one, age]), [0, 1], {}),
        (np.column_stack([one, age]), np.eye(2), {}),  # an F that the slope moves
        (np.column_stack([one, within, age]), [0, 1, 0], {"blocks": blocks}),
        (np.column_stack([one, between, age]), [0, 1, 0], {"blocks": blocks, "whole_blocks": True}),
        (np.column_stack([one, age]), [1, 0], {"errors": "ise"}),
        (np.column_stack([np.eye(3)[blocks], within]), [0, 0, 0, 1], {"blocks": blocks}),
    ]
    caplog.clear()
    for x, contrast, asked in sound:
        permutation_test(y, x, contrast, n_permutations=200, device="cpu", **asked)
    assert "relied on" not in caplog.text


def test_tfce_exponents_follow_the_domain_and_the_call():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [2, 1, 0]])
    mesh = SurfaceMesh(vertices, np.array([[0, 1, 2], [1, 2, 3], [1, 3, 4]]))
    rng = np.random.default_rng(0)
    y = rng.standard_normal((10, 5)) + 1
    x = np.column_stack([np.ones(10), np.arange(10) % 2])
    options = {"n_permutations": 20, "domain": mesh, "tfce": True, "device": "cpu"}
    result = permutation_test(y, x, [1, 0], **options)
    assert result.settings["tfce_E"] == 1.0
    np.testing.assert_allclose(result.tfce, tfce(result.statistic, mesh, H=2, E=1.0), rtol=1e-9)
    other = permutation_test(y, x, [1, 0], tfce_H=1.5, tfce_E=0.7, **options)
    np.testing.assert_allclose(other.tfce, tfce(other.statistic, mesh, H=1.5, E=0.7), rtol=1e-9)
    with pytest.raises(UsageError, match="tfce_H"):
        permutation_test(y, x, [1, 0], tfce_H=0.0, **options)
