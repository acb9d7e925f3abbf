"""Permutation inference on parcels: every number of every rearrangement against networkx and a loop."""

from __future__ import annotations

import itertools
import json

import networkx as nx
import nibabel
import numpy as np
import pytest
from scipy import stats

from benchmarks import parcel_fwe
from benchmarks.machine import ROOT
from gpuroi.domains import ParcelGraph
from gpuroi.inference import permutation_test
from gpuroi.ops import label_means
from gpuroi.parcels import smooth_over_graph


def brute_t(y: np.ndarray, x: np.ndarray, z: np.ndarray, order: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Freedman and Lane, one rearrangement: residuals of the nuisance are moved, and the whole model is fitted anew."""
    fitted = z @ np.linalg.lstsq(z, y, rcond=None)[0] if z.shape[1] else np.zeros_like(y)
    moved = np.empty_like(y)
    moved[order] = sign[:, None] * (y - fitted)
    y = fitted + moved
    design = np.column_stack([x, z])
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    rest = ((y - design @ beta) ** 2).sum(axis=0) / (len(y) - design.shape[1])
    return beta[0] / np.sqrt(rest * inverse[0, 0])


def brute_statistics(t: np.ndarray, graph: ParcelGraph, threshold: float) -> dict[str, float]:
    whole = nx.Graph(graph.edges.tolist())
    whole.add_nodes_from(graph.ids.tolist())
    weight = dict(zip(graph.ids.tolist(), graph.weights.tolist(), strict=True))
    size = mass = tfce = 0.0
    for sign in (1, -1):
        value = dict(zip(graph.ids.tolist(), (sign * t).tolist(), strict=True))
        for part in nx.connected_components(whole.subgraph([i for i, v in value.items() if v > threshold])):
            size = max(size, sum(weight[i] for i in part))
            mass = max(mass, sum(value[i] for i in part))
        enhanced = dict.fromkeys(value, 0.0)
        below = 0.0
        for height in sorted({v for v in value.values() if v > 0}):
            for part in nx.connected_components(whole.subgraph([i for i, v in value.items() if v >= height])):
                extent = sum(weight[i] for i in part)
                for i in part:
                    enhanced[i] += extent**0.5 * (height**3 - below**3) / 3
            below = height
        tfce = max(tfce, *enhanced.values())
    return {"max_stat": float(np.abs(t).max()), "max_size": size, "max_mass": mass, "max_tfce": tfce}


def small_atlas(seed: int = 0) -> ParcelGraph:
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 3, 4, 7, 20, 21, 50, 51, 52, 90, 301, 302, 403], (4, 4, 3))
    labels = labels.repeat(2, 0).repeat(3, 1)
    return ParcelGraph.from_labels(labels, np.diag([2.0, 2, 3, 1]), weights="mm3")


@pytest.mark.parametrize("errors", ["ee", "ise"])
def test_every_rearrangement_equals_brute_force(backend, errors):
    rng = np.random.default_rng(1)
    graph = small_atlas()
    n, v, k = 14, graph.n_elements, 70
    y = rng.normal(50, 2, (n, v))
    y[: n // 2, :3] += 4
    x = np.repeat([1.0, 0.0], n // 2) if errors == "ee" else np.ones(n)
    z = np.column_stack([np.ones(n), rng.normal(size=n)]) if errors == "ee" else np.empty((n, 0))
    y = y if errors == "ee" else y - 50
    rows = np.stack([np.arange(n), *(rng.permutation(n) if errors == "ee" else np.arange(n) for _ in range(k - 1))])
    signs = np.ones((k, n), int)
    if errors == "ise":
        signs[1:] = rng.choice([-1, 1], (k - 1, n))
    with backend.activate():
        result = permutation_test(
            backend.asarray(y),
            np.column_stack([x, z]),
            [1.0] + [0.0] * z.shape[1],
            domain=graph,
            cluster_threshold=1.5,
            tfce=True,
            permutations=(rows + 1) * signs,
            device="cpu",
        )
    want = {name: np.empty(k) for name in ("max_stat", "max_size", "max_mass", "max_tfce")}
    for b in range(k):
        found = brute_statistics(brute_t(y, x, z, rows[b], signs[b]), graph, 1.5)
        for name, value in found.items():
            want[name][b] = value
    for name, values in want.items():
        np.testing.assert_allclose(result.null[name], values, rtol=1e-9, err_msg=name)
    observed = brute_t(y, x, z, rows[0], signs[0])
    np.testing.assert_allclose(result.statistic, observed, rtol=1e-9)
    reached = want["max_stat"][:, None] >= np.abs(observed) * (1 - 1e-9)
    np.testing.assert_allclose(result.p_fwe, reached.mean(axis=0))
    table = result.cluster_table
    for column, name in (("size", "max_size"), ("mass", "max_mass")):
        share = [(want[name] >= value * (1 - 1e-9)).mean() for value in table[column]]
        np.testing.assert_allclose(table[f"p_{column}_fwe"], share)
    for row in table.itertuples():
        inside = result.cluster_labels == row.label
        assert row.size == graph.weights[inside].sum()
        np.testing.assert_allclose(row.mass, np.abs(observed[inside]).sum())
    np.testing.assert_allclose(np.abs(result.tfce).max(), want["max_tfce"][0], rtol=1e-9)


def test_all_rearrangements_of_a_small_study_are_run():
    graph = small_atlas(3)
    y = np.random.default_rng(3).normal(size=(8, graph.n_elements))
    group = np.repeat([0.0, 1.0], 4)
    result = permutation_test(
        y, np.column_stack([group, np.ones(8)]), [1, 0], domain=graph, n_permutations=100_000, cluster_threshold=1.0
    )
    assert (result.exhaustive, result.n_permutations) == (True, 70)
    every = [
        np.abs(brute_t(y, np.isin(np.arange(8), ones).astype(float), np.ones((8, 1)), np.arange(8), np.ones(8))).max()
        for ones in itertools.combinations(range(8), 4)
    ]
    np.testing.assert_allclose(np.sort(result.null["max_stat"]), np.sort(every), rtol=1e-9)


def test_homotopic_edges_join_clusters_and_weights_change_sizes_alone():
    rng = np.random.default_rng(4)
    labels = np.array([[[1, 2, 0, 3, 4]]])
    y = rng.normal(size=(16, 4))
    y[:8, [0, 3]] += 4
    x = np.column_stack([np.repeat([1.0, 0], 8), np.ones(16)])
    apart = ParcelGraph.from_labels(labels)
    joined = ParcelGraph.from_labels(labels, homotopic=[(1, 4)])
    options = {"cluster_threshold": 2.5, "n_permutations": 200, "device": "cpu"}
    one = permutation_test(y, x, [1, 0], domain=apart, **options)
    two = permutation_test(y, x, [1, 0], domain=joined, **options)
    assert (len(one.cluster_table), len(two.cluster_table)) == (2, 1)
    assert two.cluster_table["size"].tolist() == [2.0]
    np.testing.assert_array_equal(one.p_fwe, two.p_fwe)
    weighted = permutation_test(y, x, [1, 0], domain=joined.with_weights({1: 10, 2: 1, 3: 1, 4: 0.5}), **options)
    assert weighted.cluster_table["size"].tolist() == [10.5]
    np.testing.assert_array_equal(weighted.null["max_mass"], two.null["max_mass"])


def test_smoothing_over_the_graph_finds_what_neighbours_share():
    rng = np.random.default_rng(5)
    labels = np.arange(1, 65).reshape(4, 4, 4)
    graph = ParcelGraph.from_labels(labels, np.eye(4))
    group = np.repeat([0.0, 1.0], 15)
    effect = np.isin(graph.ids, labels[:2, :2, :2])
    x = np.column_stack([group, np.ones(30)])
    plain = smoothed = 0
    for seed in range(6):
        y = rng.normal(size=(30, 64)) + 0.9 * group[:, None] * effect
        for steps in (0, 1):
            data = smooth_over_graph(y, graph, steps=steps)
            result = permutation_test(data, x, [1, 0], n_permutations=200, seed=seed, device="cpu")
            found = int((result.p_fwe[effect] <= 0.05).sum())
            plain, smoothed = plain + found * (steps == 0), smoothed + found * (steps == 1)
    assert smoothed > plain


def test_a_cohort_of_real_lesions(open_data):
    """131 patients, 403 areas, one score: sizes count parcels, and the largest parcel alone is no large cluster."""
    folder = open_data / "lesymap131"
    image = nibabel.load(folder / "Parcellation_403areas.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int32)[::3, ::3, ::3]
    graph = ParcelGraph.from_labels(labels, image.affine)
    maps = sorted((folder / "lesions").glob("*.nii.gz"))[:40]
    data = np.stack(
        [label_means(np.asarray(nibabel.load(m).dataobj)[::3, ::3, ::3].astype(np.float32), labels) for m in maps]
    )
    score = np.loadtxt(folder / "behavior" / "behavior.txt")[:40]
    data += np.random.default_rng(0).normal(0, 1e-3, data.shape)  # areas that no lesion reaches vary a little
    design = np.column_stack([score, np.ones(40)])
    result = permutation_test(data, design, [1, 0], domain=graph, n_permutations=300, cluster_threshold=2.5, tfce=True)
    t = brute_t(data, score, np.ones((40, 1)), np.arange(40), np.ones(40))
    np.testing.assert_allclose(result.statistic, t, rtol=1e-6)
    found = brute_statistics(result.statistic, graph, 2.5)
    for name, value in found.items():
        np.testing.assert_allclose(result.null[name][0], value, rtol=1e-9, err_msg=name)


# ------------------------------------------------------------------ familywise error


def test_nothing_is_found_too_often_where_there_is_nothing():
    found = parcel_fwe.calibrate({"made up": parcel_fwe.made_up_atlas()}, 120, 40)
    assert parcel_fwe.flawed({"familywise_error": found}) == []
    assert 0.1 < found["upper"] < 0.16
    row = found["atlases"]["made up"]
    low, middle, high = row["voxels_of_a_parcel"]
    assert row["parcels"] == 40
    assert low < middle < high
    assert {statistic for design in row["designs"].values() for statistic in design} == {
        "max_t",
        "size",
        "mass",
        "tfce",
    }


def test_a_liberal_or_a_deaf_test_would_be_noticed():
    design = {"max_t": {"share": 0.2, "not_above": False, "not_below": True}}
    deaf = {"tfce": {"share": 0.0, "not_above": True, "not_below": False}, "size": {**design["max_t"]}}
    deaf["size"] |= {"share": 0.0, "not_above": True, "not_below": False}  # has ties: may be conservative
    record = {"familywise_error": {"atlases": {"a": {"designs": {"d": design, "e": deaf}}}}}
    assert parcel_fwe.flawed(record) == [
        "a, d: max_t rejects in 20.0%, above the interval",
        "a, e: tfce rejects in 0.0%, below the interval",
    ]


def test_the_interval_holds_the_whole_table():
    lower, upper = parcel_fwe.interval(1000, 200, 48)
    inside = stats.binom.cdf(upper, 1000, 0.05) - stats.binom.cdf(lower - 1, 1000, 0.05)
    assert inside**48 >= 0.99
    assert stats.binom.interval(0.99, 1000, 0.05)[1] < upper < 80


def test_committed_calibrations_hold():
    files = sorted((ROOT / "benchmarks" / "results").glob("parcel-fwe-*.json"))
    assert files
    for path in files:
        record = json.loads(path.read_text())
        assert parcel_fwe.flawed(record) == [], path
        assert record["familywise_error"]["n_sets"] >= 500, path
        assert {"Schaefer 100", "Schaefer 200", "Harvard-Oxford cortical"} <= set(record["familywise_error"]["atlases"])


def test_the_command_runs(tmp_path, capsys):
    target = tmp_path / "fwe.json"
    assert parcel_fwe.main(["--tiny", "--out", str(target)]) == 0
    record = json.loads(target.read_text())
    assert set(record) >= {"date", "command", "machine", "packages", "settings", "familywise_error"}
    assert "written" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parcel_fwe.main([])
