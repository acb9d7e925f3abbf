"""What a parcel graph knows beside contact: pieces, centres, counterparts; on each device; and in a file."""

from __future__ import annotations

import networkx as nx
import nibabel
import numpy as np
import pandas as pd
import pytest
from domain_oracles import brute_contacts, check_graph
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import STRUCTURES
from scipy import ndimage

from gpuroi.domains import ParcelGraph
from gpuroi.domains.homotopic import homotopic_pairs
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.parcels import load_graph, save_graph, smooth_over_graph
from gpuroi.parcels.graph_files import edge_table

AFFINE = np.array([[-2.0, 0.3, 0.0, 90], [0.4, 3.0, 0.1, -126], [0.2, 0.0, 4.0, -72], [0, 0, 0, 1]])
SOME_LABELS = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.sampled_from([0, 0, 2, 3, 9, 3_000_000])
).filter(np.any)


def same(one: ParcelGraph, other: ParcelGraph) -> None:
    for name in ("ids", "edges", "weights", "contact", "contact_mm2", "voxels", "pieces", "centres_mm"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
    assert one.unit == other.unit


@given(labels=SOME_LABELS, connectivity=st.sampled_from([6, 18, 26]), order=st.sampled_from("CF"))
def test_pieces_sizes_and_centres_equal_scipy(labels, connectivity, order):
    atlas = ParcelGraph.from_labels(np.array(labels, order=order), AFFINE, connectivity=connectivity)
    check_graph(atlas)
    for i, parcel in enumerate(atlas.ids):
        inside = labels == parcel
        assert atlas.pieces[i] == ndimage.label(inside, STRUCTURES[connectivity])[1]
        assert atlas.voxels[i] == inside.sum()
        centre = nibabel.affines.apply_affine(AFFINE, np.argwhere(inside).mean(axis=0))
        np.testing.assert_allclose(atlas.centres_mm[i], centre, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_every_device_counts_the_same(backend, connectivity, dtype, order):
    rng = np.random.default_rng(3)
    labels = np.array(rng.integers(0, 40, (3, 4, 3)).repeat(3, 0).repeat(2, 1).repeat(3, 2), dtype, order=order)
    host = ParcelGraph.from_labels(labels, AFFINE, connectivity=connectivity, weights="mm3", min_contact=2)
    with backend.activate():
        there = ParcelGraph.from_labels(
            backend.asarray(labels), AFFINE, connectivity=connectivity, weights="mm3", min_contact=2
        )
    same(there, host)
    contact, _ = brute_contacts(labels.astype(int), connectivity)
    pairs = [tuple(edge) for edge in there.edges.tolist()]
    assert dict(zip(pairs, there.contact.tolist(), strict=True)) == {k: n for k, n in contact.items() if n >= 2}


def test_labels_on_a_device_are_counted_there(standin_cupy, device_meter):
    labels = np.random.default_rng(0).integers(0, 30, (4, 4, 4)).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    there = standin_cupy.asarray(labels)
    device_meter.reset()
    atlas = ParcelGraph.from_labels(there)
    assert 0 < device_meter.d2h_bytes < labels.nbytes / 4
    same(atlas, ParcelGraph.from_labels(labels))


def test_many_parcels_are_counted_without_a_table_of_pairs():
    labels = np.arange(1, 12 * 11 * 10 + 1).reshape(12, 11, 10) * 7
    atlas = ParcelGraph.from_labels(labels)
    assert atlas.n_elements**2 > 1 << 20
    grid = nx.convert_node_labels_to_integers(nx.grid_graph((10, 11, 12)), ordering="sorted")
    assert len(atlas.edges) == grid.number_of_edges() == 11 * 11 * 10 + 12 * 10 * 10 + 12 * 11 * 9
    assert np.all(atlas.contact == 1)


@pytest.mark.parametrize(
    "name", ["schaefer100x7MNI", "HarvardOxford-cort-maxprob-thr25-2mm", "Yeo_17_Liberal_2mm_split"]
)
def test_pieces_and_components_of_real_atlases(open_data, name):
    image = nibabel.load(open_data / "atlas" / f"{name}.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int32)
    atlas = ParcelGraph.from_labels(labels, image.affine)
    boxes = ndimage.find_objects(labels)
    want = [ndimage.label(labels[boxes[i - 1]] == i)[1] for i in atlas.ids]
    assert atlas.pieces.tolist() == want
    assert sum(n > 1 for n in want) > 0
    whole = nx.Graph(atlas.edges.tolist())
    one_mask, n = ndimage.label(labels > 0)
    of_parcel = {int(i): set(np.unique(one_mask[labels == i]).tolist()) for i in atlas.ids}
    for component in nx.connected_components(whole):
        assert len(component) > 1
        assert nx.is_connected(whole.subgraph(component))
    assert n >= nx.number_connected_components(whole) + sum(i not in whole for i in of_parcel)


# ------------------------------------------------------------------ homotopic edges


def test_counterparts_by_mirroring():
    labels = np.zeros((11, 4, 4), int)
    labels[1, 0], labels[9, 0] = 1, 2  # mirrored across the middle, x index 5
    labels[0, 3], labels[10, 2] = 5, 6
    labels[4:7, 1:3] = 9  # in both halves: nobody's counterpart
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 3] = -10
    atlas = ParcelGraph.from_labels(labels, affine, homotopic="mirror")
    assert [pair for pair in atlas.edges.tolist() if atlas.contact[atlas.edges.tolist().index(pair)] == 0] == [
        [1, 2],
        [5, 6],
    ]
    flipped = affine.copy()
    flipped[0] *= -1  # stored right to left: the same pairs
    np.testing.assert_array_equal(ParcelGraph.from_labels(labels, flipped, homotopic="mirror").edges, atlas.edges)
    far = homotopic_pairs(atlas.ids, "mirror", atlas.centres_mm, within_mm=0.5)
    assert far.tolist() == [[1, 2]]


def test_counterparts_of_a_real_atlas(open_data):
    image = nibabel.load(open_data / "atlas" / "Yeo_17_Liberal_2mm_split.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int32)
    atlas = ParcelGraph.from_labels(labels, image.affine)
    names = {
        i: f"{'LH' if atlas.centres_mm[k, 0] < 0 else 'RH'}_Net{(i - 1) % 17 + 1}" for k, i in enumerate(atlas.ids)
    }
    named = homotopic_pairs(atlas.ids, names)
    assert named.tolist() == [[i, i + 17] for i in range(1, 18)] or named[:, ::-1].tolist() == [
        [i, i + 17] for i in range(1, 18)
    ]
    mirrored = {frozenset(pair) for pair in homotopic_pairs(atlas.ids, "mirror", atlas.centres_mm).tolist()}
    agree = mirrored & {frozenset(pair) for pair in named.tolist()}
    assert len(agree) >= 14
    assert len(mirrored) - len(agree) <= 2


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("7Networks_LH_Vis_1", "7Networks_RH_Vis_1"),
        ("ctx-lh-cuneus", "ctx-rh-cuneus"),
        ("Left-Thalamus", "Right-Thalamus"),
        ("Precentral_L", "Precentral_R"),
        ("L_V1_ROI", "R_V1_ROI"),
        ("Left Frontal Pole", "right frontal pole"),
    ],
)
def test_sides_in_names(left, right):
    known = np.array([3, 8, 12])
    assert homotopic_pairs(known, {12: left, 3: right, 8: "Brain-Stem", 0: "Background"}).tolist() == [[12, 3]]
    assert homotopic_pairs(known, pd.Series([left, right], index=[3, 8])).tolist() == [[3, 8]]


@pytest.mark.parametrize(
    ("homotopic", "error", "message"),
    [
        ("left", UsageError, 'homotopic is "left"'),
        ("mirror", UsageError, "where the parcels lie"),
        ({1: "LH_a", 7: "RH_a", 9: "b"}, DataError, "do not exist: 7, 9"),
        ({1: "LH_a", 2: "lh-a", 3: "RH_a"}, DataError, r"share a name: 1, 2 \(LH_a\)"),
        ({1: "a", 2: "b"}, DataError, "no parcel has a counterpart"),
        ([(1, 2), (3, 44)], DataError, "do not exist: 44"),
        ([(1, 2, 3)], DataError, "edges have shape"),
    ],
)
def test_counterparts_that_cannot_be_told_are_refused(homotopic, error, message):
    with pytest.raises(error, match=message):
        ParcelGraph.from_labels(np.array([[[1, 0, 2, 0, 3]]]), homotopic=homotopic)


def test_added_edges_have_no_contact_and_touching_pairs_keep_theirs():
    atlas = ParcelGraph.from_labels(np.array([[[1, 1, 2, 0, 8]], [[1, 2, 2, 0, 8]]]), np.diag([1, 2, 3, 1.0]))
    more = atlas.with_edges([(8, 1), (2, 1)])
    check_graph(more)
    assert more.edges.tolist() == [[1, 2], [1, 8]]
    assert (more.contact.tolist(), more.contact_mm2.tolist()) == ([3, 0], [*atlas.contact_mm2.tolist(), 0.0])
    assert atlas.edges.tolist() == [[1, 2]]
    assert more.graph is not atlas.graph
    with pytest.raises(DataError, match="do not exist: 5"):
        atlas.with_edges([(1, 5)])


def test_weights_are_exchanged():
    atlas = ParcelGraph.from_labels(np.array([[[1, 1, 2]]]))
    assert atlas.with_weights("voxels").weights.tolist() == [2, 1]
    assert atlas.with_weights({2: 5, 1: 0.5}).unit == "weights"
    for bad, message in (("mm3", "affine"), ("mm2", "weights is 'mm2'")):
        with pytest.raises(UsageError, match=message):
            atlas.with_weights(bad)
    with pytest.raises(UsageError, match="need the label volume"):
        ParcelGraph([1], []).with_weights("voxels")


# ------------------------------------------------------------------ files


@given(labels=SOME_LABELS, weights=st.sampled_from(["parcels", "voxels", "mm3"]), added=st.booleans())
def test_a_saved_graph_comes_back_to_the_last_bit(tmp_path_factory, labels, weights, added):
    graph = ParcelGraph.from_labels(labels, AFFINE, weights=weights)
    if added and graph.n_elements > 1:
        graph = graph.with_edges([(graph.ids[0], graph.ids[-1])])
    path = tmp_path_factory.mktemp("graph") / "graph.tsv"
    same(load_graph(save_graph(path, graph)), graph)


def test_edges_of_a_graph_without_labels_have_no_contact():
    table = edge_table(ParcelGraph([2, 5, 2**40], [(2, 2**40)], [0.1, 1 / 3, 7]))
    assert table[["id", "neighbour", "kind"]].to_numpy().tolist() == [[2, 2**40, "edge"]]
    assert table["contact"].isna().all()


def test_files_of_graphs(tmp_path):
    graph = ParcelGraph([2, 5, 900], [(2, 900)], [0.1, 1 / 3, 7])
    path = save_graph(tmp_path / "graph.tsv", graph)
    same(load_graph(path), graph)
    assert path.read_text().splitlines()[0].split("\t")[:3] == ["kind", "id", "neighbour"]
    assert "n/a" in path.read_text()
    with pytest.raises(OutputError, match="exists already"):
        save_graph(path, graph)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        save_graph(path, None, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["graph.tsv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind\tid\n", "no column neighbour, weight, unit"),
        ("kind\tid\tneighbour\tweight\tunit\nnode\t1\tn/a\t1\tparcels\n", "rows of kind node"),
        ("kind\tid\tneighbour\tweight\tunit\ncontact\t1\t2\tn/a\tn/a\n", "expected one unit"),
        (
            "kind\tid\tneighbour\tweight\tunit\nparcel\t1\tn/a\t1\tparcels\ncontact\t1\t7\tn/a\tn/a\n",
            "do not exist: 7",
        ),
        (
            "kind\tid\tneighbour\tweight\tunit\nparcel\t1\tn/a\t1\tparcels\nparcel\t2\tn/a\t1\tparcels\n"
            "contact\t1\t2\tn/a\tn/a\ncontact\t2\t1\tn/a\tn/a\n",
            "an edge is there more than once",
        ),
        ("kind\tid\tneighbour\tweight\tunit\nparcel\tx\tn/a\t1\tparcels\n", "could not convert"),
        ("", "the table is empty"),
    ],
)
def test_broken_files_of_graphs_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "broken.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        load_graph(path)
    assert "broken.tsv" in error.value.message


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"nowhere\.tsv: no such file"):
        load_graph("nowhere.tsv")


# ------------------------------------------------------------------ smoothing over the graph


def brute_smoothing(x: np.ndarray, graph: ParcelGraph, amount: float, steps: int, weights: np.ndarray) -> np.ndarray:
    near = nx.Graph()
    near.add_nodes_from(graph.ids.tolist())
    for (a, b), w in zip(graph.edges.tolist(), weights.tolist(), strict=True):
        near.add_edge(a, b, w=w)
    for _ in range(steps):
        value = dict(zip(graph.ids.tolist(), x.tolist(), strict=True))
        new = []
        for i in graph.ids.tolist():
            others = [(d["w"], value[j]) for j, d in near[i].items() if not np.isnan(value[j])]
            around = sum(w * v for w, v in others) / sum(w for w, _ in others) if others else None
            new.append(value[i] if around is None else (1 - amount) * value[i] + amount * around)
        x = np.array(new)
    return x


@pytest.mark.parametrize("by", ["contact", "equal"])
@pytest.mark.parametrize(("amount", "steps"), [(0.5, 1), (0.3, 3), (1.0, 2), (0.0, 1), (0.5, 0)])
def test_smoothing_equals_a_loop_over_neighbours(backend, by, amount, steps):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 25, (3, 4, 4)).repeat(2, 0).repeat(2, 1).repeat(2, 2) * 3
    graph = ParcelGraph.from_labels(labels, AFFINE)
    data = rng.normal(100, 3, (2, 3, graph.n_elements))
    data[0, 1, 4] = np.nan
    with backend.activate():
        got = backend.to_numpy(smooth_over_graph(backend.asarray(data), graph, amount=amount, steps=steps, by=by))
    weights = graph.contact_mm2 if by == "contact" else np.ones(len(graph.edges))
    for row in np.ndindex(2, 3):
        np.testing.assert_allclose(got[row], brute_smoothing(data[row], graph, amount, steps, weights), rtol=1e-12)
    np.testing.assert_allclose(smooth_over_graph(np.full(graph.n_elements, 1e6), graph), 1e6, rtol=1e-15)


def test_smoothing_of_integers_and_single_precision():
    graph = ParcelGraph([1, 2, 3], [(1, 2)])
    assert smooth_over_graph(np.array([4, 0, 9]), graph, by="equal").tolist() == [2, 2, 9]
    assert smooth_over_graph(np.ones(3, np.float32), graph, by="equal").dtype == np.float32
    assert smooth_over_graph(np.ones((0, 3)), graph, by="equal").shape == (0, 3)
    assert smooth_over_graph(np.ones(2), ParcelGraph([1, 2], []), by="equal").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"amount": 1.5}, UsageError, "amount is 1.5"),
        ({"steps": -1}, UsageError, "steps is -1"),
        ({"by": "size"}, UsageError, 'by is "size"'),
        ({}, UsageError, "how much its parcels touch"),
    ],
)
def test_bad_smoothing_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        smooth_over_graph(np.ones(2), ParcelGraph([1, 2], [(1, 2)]), **arguments)
    with pytest.raises(DataError, match="2 parcels on the last axis"):
        smooth_over_graph(np.ones(3), ParcelGraph([1, 2], [(1, 2)]), by="equal")
