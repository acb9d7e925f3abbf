"""`threshold_parcels` against networkx, loops over voxels, and real maps on real atlases."""

from __future__ import annotations

import itertools
import json

import networkx as nx
import nibabel
import numpy as np
import pandas as pd
import pytest
from domain_oracles import offsets
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from gpuroi.domains import ParcelGraph
from gpuroi.errors import DataError, GridError, OutputError, UsageError
from gpuroi.parcels import family_graph, load_graph, read_hierarchy, save_graph
from gpuroi.parcels.threshold import cutoff_of, find_clusters
from gpuroi.report.parcel_figures import save_graph_picture, save_threshold_picture
from gpuroi.workflows.parcel_threshold import threshold_parcels

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def on(backend, monkeypatch):
    """The name of each backend's device in turn; the stand-in has no driver for a probe to find."""
    for module in ("workflows.parcel_threshold", "parcels.values", "inference.domain_maps"):
        monkeypatch.setattr(f"gpuroi.{module}.get_backend", lambda _device: backend)
    return backend.device


def voxel_clusters(labels, values, cutoff, connectivity, two_sided) -> list[set[int]]:
    """Clusters of parcels by a loop over voxels: those of one parcel are one, and those that touch on one side."""
    together = nx.Graph()
    side = {i: (v > cutoff) - (two_sided and v < -cutoff) for i, v in values.items()}
    for p in np.ndindex(labels.shape):
        here = int(labels[p])
        if not here or not side[here]:
            continue
        together.add_edge(p, ("parcel", here))
        for o in offsets(connectivity):
            q = tuple(np.add(p, o).tolist())
            if all(0 <= i < n for i, n in zip(q, labels.shape, strict=True)) and labels[q]:
                there = int(labels[q])
                if side[there] == side[here]:
                    together.add_edge(p, q)
    return [{node[1] for node in c if node[0] == "parcel"} for c in nx.connected_components(together)]


@given(
    labels=hnp.arrays(
        np.int16, hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=5), elements=st.integers(0, 7)
    ).filter(np.any),
    numbers=st.lists(st.integers(-3, 3), min_size=7, max_size=7),
    connectivity=st.sampled_from([6, 18, 26]),
    two_sided=st.booleans(),
    weights=st.sampled_from(["parcels", "voxels", "mm3"]),
    least=st.integers(1, 20),
)
def test_clusters_equal_a_loop_over_voxels(labels, numbers, connectivity, two_sided, weights, least):
    labels = labels * 50
    values = {int(i): numbers[int(i) // 50 - 1] / 2 for i in np.unique(labels[labels > 0])}
    result = threshold_parcels(
        values,
        labels,
        threshold=0.5,
        cluster_threshold=least,
        weights=weights,
        two_sided=two_sided,
        connectivity=connectivity,
        affine=AFFINE,
        device="cpu",
    )
    want = voxel_clusters(labels, values, 0.5, connectivity, two_sided)
    each = {i: {"parcels": 1, "voxels": 1, "mm3": 8}[weights] for i in values}
    if weights != "parcels":
        each = {i: each[i] * int((labels == i).sum()) for i in values}
    found = result.table[result.table["cluster"] > 0].groupby("cluster")["id"].agg(set).tolist()
    assert sorted(map(sorted, found)) == sorted(map(sorted, want))
    kept = sorted(i for c in want if sum(each[i] for i in c) >= least for i in c)
    assert result.kept == kept
    painted = np.zeros(labels.shape)
    for i in kept:
        painted[labels == i] = values[i]
    np.testing.assert_array_equal(result.image, painted)
    for row in result.table.itertuples():
        mine = next((c for c in want if row.id in c), set())
        assert row.cluster_weight == sum(each[i] for i in mine)
        assert row.isolated == (len(mine) == 1)
        assert row.kept == (row.id in kept)


@pytest.mark.parametrize("two_sided", [True, False])
def test_components_equal_networkx_on_random_graphs(backend, two_sided):
    rng = np.random.default_rng(0)
    for _ in range(20):
        v = int(rng.integers(1, 80))
        ids = np.sort(rng.choice(np.arange(1, 5000), v, replace=False))
        pairs = [p for p in itertools.combinations(ids.tolist(), 2) if rng.random() < 2 / v]
        graph = ParcelGraph(ids, pairs, rng.random(v))
        x = rng.normal(size=v)
        x[rng.random(v) < 0.05] = np.nan
        found = find_clusters(x, graph, 0.4, cluster_threshold=1.2, two_sided=two_sided, device=backend_name(backend))
        for sign in (1, -1):
            inside = {int(i) for i, value in zip(ids, x, strict=True) if sign * value > 0.4}
            got = {
                frozenset(ids[(found.cluster == k)].tolist()) for k in np.unique(found.cluster[found.sign == sign])
            } - {frozenset()}
            whole = nx.Graph(pairs)
            whole.add_nodes_from(ids.tolist())
            want = set(map(frozenset, nx.connected_components(whole.subgraph(inside))))
            assert got == (want if two_sided or sign == 1 else set())
        for k in range(1, found.cluster.max() + 1):
            weight = graph.weights[found.cluster == k].sum()
            np.testing.assert_allclose(found.weight[found.cluster == k], weight)
            assert np.all(found.kept[found.cluster == k] == (weight >= 1.2))


def backend_name(backend) -> str | None:
    """None is where the values lie: host values of the stand-in's test stay on the host."""
    return "cpu" if backend.name == "cpu" else None


def test_the_same_on_every_device(on):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 30, (3, 3, 3)).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    volume = rng.normal(size=labels.shape).astype(np.float32)
    settings = {"threshold": "60%", "cluster_threshold": 30, "weights": "voxels", "summary": "mean", "affine": AFFINE}
    there = threshold_parcels(volume, labels, device=on, **settings)
    means = ndimage.mean(volume, labels, there.table["id"])
    np.testing.assert_allclose(there.table["value"], means, rtol=1e-6)
    assert there.settings["cutoff"] == pytest.approx(np.percentile(np.abs(means), 60), rel=1e-6)
    assert there.device == on
    assert 0 < len(there.kept) < len(there.table)


def test_arrays_that_lie_on_a_device_are_worked_on_there(standin_cupy, device_meter, monkeypatch):
    from gpuroi.backends.cuda import cuda_backend

    for module in ("workflows.parcel_threshold", "parcels.values", "inference.domain_maps"):
        monkeypatch.setattr(f"gpuroi.{module}.get_backend", lambda _device: cuda_backend(0))
    labels = np.random.default_rng(1).integers(0, 9, (3, 3, 3)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    values = {i: float(i) for i in range(1, 9)}
    host = threshold_parcels(values, labels, threshold=2, device="cuda")
    there = threshold_parcels(values, standin_cupy.asarray(labels), threshold=2, device="cuda")
    pd.testing.assert_frame_equal(host.table, there.table)
    assert there.kept == [3, 4, 5, 6, 7, 8]


# ------------------------------------------------------------------ the question that users ask


def test_one_large_parcel_passes_no_extent_of_parcels_but_any_of_voxels():
    labels = np.ones((10, 10, 10), int)
    labels[0, 0, :3] = [2, 3, 4]
    values = {1: 0.0, 2: 3.0, 3: 3.0, 4: 3.0}
    assert threshold_parcels(values, labels, threshold=2.5, cluster_threshold=3).kept == [2, 3, 4]
    values = {1: 3.0, 2: 0.0, 3: 0.0, 4: 0.0}
    alone = threshold_parcels(values, labels, threshold=2.5, cluster_threshold=2)
    assert (alone.kept, alone.counts["isolated"], alone.counts["isolated_kept"]) == ([], [1], [])
    by_voxels = threshold_parcels(values, labels, threshold=2.5, cluster_threshold=500, weights="voxels")
    assert (by_voxels.kept, by_voxels.counts["isolated_kept"]) == ([1], [1])


def test_the_threshold_is_strict_and_the_cluster_threshold_is_not():
    labels = np.array([[[1, 2, 3]]])
    result = threshold_parcels({1: 2.0, 2: 2.1, 3: 2.1}, labels, threshold=2.0, cluster_threshold=2)
    assert result.kept == [2, 3]
    assert threshold_parcels({1: 0.0, 2: 1e-300, 3: -1.0}, labels, threshold=0).kept == [2, 3]
    assert threshold_parcels({1: np.inf, 2: np.nan, 3: -np.inf}, labels, threshold=9).kept == [1, 3]


@pytest.mark.parametrize("cutoff", [2.3, 2.4])  # float32 rounds one down, the other up
def test_the_threshold_is_strict_in_the_precision_of_the_image(cutoff):
    painted = np.array([[[cutoff, cutoff, 0, -cutoff]]], np.float32)
    labels = np.array([[[1, 1, 0, 3]]])
    assert threshold_parcels(painted, labels, threshold=cutoff).kept == []
    assert threshold_parcels(np.nextafter(painted, 9 * painted), labels, threshold=cutoff).kept == [1, 3]


def test_signs_never_join():
    labels = np.array([[[1, 2, 3, 4]]])
    values = {1: 3.0, 2: -3.0, 3: -4.0, 4: 5.0}
    result = threshold_parcels(values, labels, threshold=2, cluster_threshold=2)
    assert result.kept == [2, 3]
    assert result.table["cluster"].tolist() == [1, 3, 3, 2]
    assert threshold_parcels(values, labels, threshold=2, two_sided=False).kept == [1, 4]
    below = threshold_parcels(values, labels, threshold=-2, two_sided=False, cluster_threshold=2)
    assert (below.kept, below.table["sign"].tolist()) == ([2, 3], [0, -1, -1, 0])


@pytest.mark.parametrize("two_sided", [True, False])
def test_percentiles_are_of_parcels_not_of_voxels(two_sided):
    values = np.array([-9.0, 1, 2, 3, np.nan, 4])
    population = np.abs(values[[0, 1, 2, 3, 5]]) if two_sided else values[[1, 2, 3, 5]]
    assert cutoff_of("70%", values, two_sided=two_sided) == np.percentile(population, 70)
    labels = np.repeat([1, 2, 3, 4, 5, 6], [90, 1, 1, 1, 1, 1]).reshape(1, 1, -1)
    result = threshold_parcels(
        dict(zip(range(1, 7), values, strict=True)), labels, threshold="70%", two_sided=two_sided
    )
    assert result.settings["cutoff"] == np.percentile(population, 70)
    assert "(70%)" in result.settings["rule"]


# ------------------------------------------------------------------ graphs, weights, hierarchies


def test_a_graph_of_ones_own(tmp_path):
    labels = np.array([[[1, 2, 3, 9]]])
    values = {1: 3, 2: 0, 3: 3, 9: 3}
    assert threshold_parcels(values, labels, threshold=1, cluster_threshold=2).kept == [3, 9]
    graph = ParcelGraph([1, 2, 3, 9], [(1, 9)], {1: 5, 2: 1, 3: 70, 9: 2})
    assert threshold_parcels(values, labels, threshold=1, cluster_threshold=2, graph=graph).kept == [1, 9]
    own = threshold_parcels(values, labels, threshold=1, cluster_threshold=7, graph=graph, weights="graph")
    assert (own.kept, own.settings["weights"]) == ([1, 3, 9], "weights")
    saved = save_graph(tmp_path / "graph.tsv", graph)
    assert threshold_parcels(values, labels, threshold=1, cluster_threshold=2, graph=saved).kept == [1, 9]
    weighted = threshold_parcels(values, labels, threshold=1, cluster_threshold=4, weights={1: 4, 2: 1, 3: 1, 9: 2})
    assert weighted.kept == [1]
    joined = threshold_parcels(values, labels, threshold=1, cluster_threshold=3, homotopic=[(1, 3)])
    assert joined.kept == [1, 3, 9]
    names = {1: "LH_a", 3: "RH_a", 2: "b", 9: "c", 77: "of a parcel that was masked away"}
    named = threshold_parcels(values, labels, threshold=1, cluster_threshold=3, homotopic="names", names=names)
    assert (named.kept, named.table["name"].tolist()) == ([1, 3, 9], ["LH_a", "b", "RH_a", "c"])


def test_names_of_freesurfer(tmp_path):
    (tmp_path / "names.txt").write_text(
        "0 Unknown 0 0 0 0\n1 Left-A 1 2 3 0\n2 Right-A 4 5 6 0\n3 Brain-Stem 7 8 9 0\n"
    )
    labels, values = np.array([[[1, 0, 2, 0, 3]]]), {1: 3.0, 2: 3.0, 3: 3.0}
    result = threshold_parcels(
        values, labels, threshold=1, cluster_threshold=2, names=tmp_path / "names.txt", homotopic="names"
    )
    assert (result.kept, result.table["name"].tolist()) == ([1, 2], ["Left-A", "Right-A", "Brain-Stem"])


def family() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "index": [0, 4, 1, 2, 3, 5],
            "name": ["bg", "d", "a", "b", "c", "e"],
            "region": ["", "r2", "r1", "r1", "r2", "r3"],
            "lobe": ["", "f", "f", "f", "f", "p"],
            "size": [0, 1, 2, 3, 4, 5],
        }
    )


def test_parents_stand_in_for_contact(tmp_path):
    labels = np.array([[[1, 0, 2, 0, 3, 4, 5]]])
    values = {1: 3, 2: 3, 3: 3, 4: -3, 5: 3}
    path = tmp_path / "atlas.tsv"
    family().to_csv(path, sep="\t", index=False)
    for hierarchy in (family(), path):
        result = threshold_parcels(values, labels, threshold=1, cluster_threshold=2, hierarchy=hierarchy)
        assert [level.name for level in result.levels] == ["region", "lobe"]
        assert result.kept == [1, 2]
        region, lobe = result.levels
        assert lobe.clusters.kept.tolist() == [True, True, True, False, False]
        assert region.table[["parent", "parcels", "above", "below", "kept_above"]].to_numpy().tolist() == [
            ["r1", 2, 2, 0, True],
            ["r2", 2, 1, 1, False],
            ["r3", 1, 1, 0, False],
        ]
        assert lobe.table.set_index("parent").loc["f", ["above", "below", "weight", "kept_below"]].tolist() == [
            3,
            1,
            4.0,
            False,
        ]
        assert result.graph.edges.tolist() == [[1, 2], [3, 4]]
    coarse = threshold_parcels(values, labels, threshold=1, cluster_threshold=3, hierarchy=path, levels=["lobe"])
    assert coarse.kept == [1, 2, 3]


@given(st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=9))
def test_families_are_cliques(parents):
    ids = np.arange(1, len(parents) + 1) * 3
    graph = family_graph(ids, np.array(parents, object), np.ones(len(ids)))
    want = [
        [i, j] for (i, p), (j, q) in itertools.combinations(zip(ids.tolist(), parents, strict=True), 2) if p == q and p
    ]
    assert graph.edges.tolist() == want


@pytest.mark.parametrize(
    ("change", "levels", "message"),
    [
        (lambda t: t, ["network"], "no column network, only index, name, region, lobe, size"),
        (lambda t: t, ["lobe", "region"], r"lobe lies in several of region: f \(r1, r2\)"),
        (lambda t: t[t["index"] != 3], None, "parcels without a row: 3"),
        (lambda t: t.replace({"index": {4: 44, 5: 55}}), None, "do not exist: 44, 55; parcels without a row: 4, 5"),
        (lambda t: t[["index", "name"]], None, "no column of parents"),
        (lambda t: pd.concat([t, t.iloc[2:3]]), None, "more than once: 1"),
    ],
)
def test_broken_hierarchies_are_refused(change, levels, message):
    with pytest.raises(DataError, match=message):
        read_hierarchy(change(family()), np.array([1, 2, 3, 4, 5]), levels)


# ------------------------------------------------------------------ bad input


LINE = np.array([[[1, 2, 0, 3]]])


@pytest.mark.parametrize(
    ("values", "labels", "arguments", "error", "message"),
    [
        ({1: 1, 2: 1, 3: 1, 7: 1, 12: 1}, LINE, {}, DataError, "do not exist: 7, 12"),
        ({1: 1}, LINE, {}, DataError, "without a value: 2, 3"),
        ({1: 1}, np.zeros((2, 2, 2), int), {}, DataError, "hold no parcel"),
        ({1: 1}, np.ones((2, 2), int), {}, DataError, "labels have shape"),
        (np.arange(4.0).reshape(1, 1, 4), np.array([[[1, 1, 2, 2]]]), {}, DataError, "in 2 of 2 parcels: 1, 2"),
        (np.ones((1, 1, 3)), LINE, {}, DataError, "expected one grid"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"threshold": "high"}, UsageError, 'threshold is "high"'),
        ({1: 1, 2: 1, 3: 1}, LINE, {"threshold": np.nan}, UsageError, "threshold is nan"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"threshold": "101%"}, UsageError, "outside 0 to 100"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"threshold": -1}, UsageError, "negative, but both sides"),
        (dict.fromkeys((1, 2, 3), np.nan), LINE, {"threshold": "9%"}, DataError, "none has a value"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"cluster_threshold": -2}, UsageError, "cluster_threshold is -2"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"cluster_threshold": np.nan}, UsageError, "cluster_threshold is nan"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"weights": "mm3"}, UsageError, "affine"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"weights": "grams"}, UsageError, "weights is 'grams'"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"weights": "graph"}, UsageError, "need a graph"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"weights": {1: 1, 8: 1}}, DataError, "do not exist: 8"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"connectivity": 7}, UsageError, "connectivity is 7"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"homotopic": "mirror"}, UsageError, "where the parcels lie"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"homotopic": "names"}, UsageError, "need names"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"levels": ["lobe"]}, UsageError, "columns of a hierarchy"),
        ({1: 1, 2: 1, 3: 1}, LINE, {"names": family()[["index", "size"]]}, DataError, "no column of names"),
        (
            {1: 1, 2: 1, 3: 1},
            LINE,
            {"graph": ParcelGraph([1, 3, 50, 60], [])},
            DataError,
            "no label: 50, 60; no row for the labels 2",
        ),
        (
            {1: 1, 2: 1, 3: 1},
            LINE,
            {"graph": ParcelGraph([1, 2, 3], []), "homotopic": [(1, 2)]},
            UsageError,
            "all its edges already",
        ),
        (
            {1: 1, 2: 1, 3: 1},
            LINE,
            {"hierarchy": family(), "homotopic": [(1, 2)]},
            UsageError,
            "stands in for contact",
        ),
    ],
)
def test_bad_input_is_one_clear_error(values, labels, arguments, error, message):
    with pytest.raises(error, match=message):
        threshold_parcels(values, labels, **{"threshold": 0.5, **arguments})


def test_an_atlas_on_another_grid_is_refused():
    labels = nibabel.Nifti1Image(np.ones((3, 3, 3), np.int16), AFFINE)
    painted = nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), np.diag([3.0, 3, 3, 1]))
    with pytest.raises(GridError, match="voxel size 3 mm"):
        threshold_parcels(painted, labels, threshold=0.5)
    with pytest.raises(UsageError, match="affine of its own"):
        threshold_parcels({1: 1}, labels, threshold=0.5, affine=AFFINE)


# ------------------------------------------------------------------ results, and real data


def test_a_saved_result_is_whole(tmp_path):
    labels = nibabel.Nifti1Image(np.arange(1, 28).reshape(3, 3, 3).repeat(4, 0).astype(np.int16), AFFINE)
    labels.set_sform(AFFINE, code=4)
    values = {i: (i - 10) / 3 for i in range(1, 28)}
    result = threshold_parcels(values, labels, threshold=1.0, cluster_threshold=2, names={1: "one"})
    folder = result.save(tmp_path / "out")
    got = nibabel.load(folder / "kept.nii.gz")
    np.testing.assert_array_equal(got.get_fdata(), np.asarray(result.image.dataobj))
    assert (got.header["sform_code"], result.image.header["sform_code"]) == (4, 4)
    table = pd.read_csv(folder / "parcels.tsv", sep="\t")
    assert table["kept"].sum() == len(result.kept) == result.counts["parcels_kept"]
    assert table["name"].tolist()[:2] == ["one", "label 2"]
    clusters = pd.read_csv(folder / "clusters.tsv", sep="\t")
    assert sorted(int(i) for row in clusters[clusters["kept"]]["ids"] for i in str(row).split()) == result.kept
    numbered = np.asarray(nibabel.load(folder / "clusters_dseg.nii.gz").dataobj)
    assert set(np.unique(numbered)) == {0, *clusters[clusters["kept"]]["cluster"]}
    np.testing.assert_array_equal(load_graph(folder / "graph.tsv").edges, result.graph.edges)
    record = json.loads((folder / "provenance.json").read_text())
    assert record["workflow"] == "threshold_parcels"
    assert record["settings"]["rule"] == "|value| > 1"
    assert [one["in_memory"] for one in record["inputs"]] == ["dict", "Nifti1Image", "dict"]
    assert set(record["timings_s"]) == {"read", "graph", "values", "inputs", "clusters"}
    assert sorted(p.name for p in (folder / "figures").iterdir()) == ["graph.png", "thresholds.png"]
    page = (folder / "report.html").read_text()
    for text in ("Random field theory does not apply", "together with their neighbours", "data:image/png"):
        assert text in page
    assert "<html" in result.report()
    with pytest.raises(OutputError, match="not empty"):
        result.save(folder)
    result.save(folder, overwrite=True, figures=False)
    assert not (folder / "figures").exists()


def test_nothing_kept_is_a_result(tmp_path):
    result = threshold_parcels({1: 0.1, 2: 0.2, 3: 0.3}, LINE, threshold=9, affine=AFFINE)
    assert (result.kept, len(result.clusters), result.image.any()) == ([], 0, False)
    folder = result.save(tmp_path / "out")
    assert "No parcel passes the threshold" in (folder / "report.html").read_text()
    assert (folder / "clusters.tsv").read_text().startswith("cluster\tsign")


def test_labels_without_a_place_are_not_saved(tmp_path):
    result = threshold_parcels({1: 0.1, 2: 0.2, 3: 0.3}, LINE, threshold=0.15)
    with pytest.raises(UsageError, match="place in space"):
        result.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert "No pictures" in result.report()


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    result = threshold_parcels({1: 0.1, 2: 0.2, 3: 0.3}, LINE, threshold=0.15, affine=AFFINE)

    def broken(*_args):
        raise RuntimeError("no ink")

    monkeypatch.setattr("gpuroi.report.parcel_page.parcels_page", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        result.save(tmp_path / "out", figures=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["HarvardOxford-cort-maxprob-thr25-2mm", "Yeo_17_Liberal_2mm_split"])
def test_a_real_map_on_a_real_atlas(open_data, name):
    stat, atlas = open_data / "statmaps" / "motor_lips.nii.gz", open_data / "atlas" / f"{name}.nii.gz"
    result = threshold_parcels(stat, atlas, threshold=1.2, cluster_threshold=2, summary="mean", device="cpu")
    labels = np.asarray(nibabel.load(atlas).dataobj).astype(int)
    volume = nibabel.load(stat).get_fdata()
    ids = np.unique(labels[labels > 0])
    means = ndimage.mean(volume, labels, ids)
    np.testing.assert_allclose(result.table["value"], means, rtol=1e-5)
    kept = set()
    for sign in (1, -1):  # a parcel in several pieces joins what its pieces touch
        passing = np.isin(labels, ids[sign * means > 1.2])
        pieces, n = ndimage.label(passing)
        whole = nx.Graph()
        for piece in range(1, n + 1):
            whole.add_edges_from((("piece", piece), int(i)) for i in np.unique(labels[pieces == piece]))
        for component in nx.connected_components(whole):
            parcels = {node for node in component if not isinstance(node, tuple)}
            kept |= parcels if len(parcels) >= 2 else set()
    assert result.kept == sorted(kept)
    assert result.image.shape == labels.shape
    again = threshold_parcels(result.image, atlas, threshold=0, device="cpu")  # a painted image is one value a parcel
    assert again.kept == result.kept
    np.testing.assert_array_equal(again.image.get_fdata(), result.image.get_fdata())


# ------------------------------------------------------------------ pictures


def test_pictures_are_the_same_each_time_and_mark_what_is_kept(tmp_path):
    labels = np.random.default_rng(0).integers(0, 12, (3, 4, 3)).repeat(5, 0).repeat(5, 1).repeat(5, 2)
    graph = ParcelGraph.from_labels(labels, AFFINE, weights="mm3", homotopic=[(1, 2)])
    values = np.linspace(-3, 3, graph.n_elements)
    drawn = [
        save_graph_picture(graph, labels, AFFINE, tmp_path / f"{i}.png", values=values, kept=kept, title="A graph")
        for i, kept in enumerate([values > 1, values > 1, values > 2])
    ]
    one, again, fewer = (path.read_bytes() for path in drawn)
    assert one.startswith(b"\x89PNG")
    assert one == again != fewer
    plain = save_graph_picture(graph, labels, AFFINE, tmp_path / "plain.png").read_bytes()
    assert plain != one
    with pytest.raises(UsageError, match=r"values have shape \(3,\)"):
        save_graph_picture(graph, labels, AFFINE, tmp_path / "x.png", values=np.ones(3))


@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_pictures_of_maps_with_nothing_in_them(tmp_path, tilt):
    affine = AFFINE.copy()
    affine[0, 1] = tilt
    labels = np.ones((6, 7, 8), int)
    bands = [("the map", np.full(labels.shape, np.nan)), ("nothing", np.zeros(labels.shape))]
    path = save_threshold_picture(bands, labels, affine, tmp_path / "x.png", threshold=2.0, title="Nothing")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="all must be the same"):
        save_threshold_picture([("a", np.zeros((2, 2, 2)))], labels, affine, tmp_path / "y.png")
