"""Domains against brute-force neighbours, SciPy's components and real atlases and meshes."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import pytest
from domain_oracles import brute_voxels, check_graph, rows, scipy_graph
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import STRUCTURES
from rig.checking import check
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from gpuroi.backends.graph import Graph
from gpuroi.domains import ParcelGraph, SurfaceMesh, VoxelGrid
from gpuroi.errors import BackendError, DataError, GpuroiError, UsageError

OBLIQUE = np.array([[2.0, 0.3, 0.0, -90], [-0.4, 3.0, 0.1, -126], [0.2, 0.0, 4.0, -72], [0, 0, 0, 1]])
TETRAHEDRON = np.array([[0, 1, 2], [0, 3, 1], [1, 3, 2], [0, 2, 3]])
CORNERS = np.array([[0.0, 0, 0], [6, 0, 0], [0, 4, 0], [0, 0, 3]])


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
