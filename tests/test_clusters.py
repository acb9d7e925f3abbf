"""Clusters and their maxima against SciPy's components, and PALM's and MRtrix3's output on real maps."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import graph_oracles as oracle
import nibabel as nib
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rig.checking import check, host
from scipy import ndimage, special

from gpuroi.backends import get_backend
from gpuroi.backends.graph import Graph
from gpuroi.backends.threads import limited_threads
from gpuroi.domains import VoxelGrid
from gpuroi.errors import BackendError, DataError, UsageError
from gpuroi.inference import clusters

DOMAINS = oracle.domains()
GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


def flat_grid(*shape: int) -> VoxelGrid:
    return VoxelGrid(np.ones(shape, bool))


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(("strict", "mass"), [(True, "sum"), (False, "excess")])
def test_labels_and_table_on_every_domain(backend, name, dtype, two_sided, strict, mass):
    domain = DOMAINS[name]
    x = oracle.values_on(domain, dtype=dtype)
    x[:: max(1, len(x) // 9)] = 0.75  # some at the threshold
    want = oracle.clusters(x, domain, 0.75, two_sided=two_sided, strict=strict, excess=mass == "excess")
    found = clusters(backend.asarray(x), domain, 0.75, two_sided=two_sided, strict=strict, mass=mass)
    labels = np.zeros(len(x), np.int32)
    for number, (members, *_) in enumerate(want, start=1):
        labels[members] = number
    check(found.labels, labels, backend=backend)
    table = found.table
    assert table["label"].tolist() == list(range(1, len(want) + 1))
    assert table["sign"].tolist() == [sign for *_, sign in want]
    np.testing.assert_allclose(table["size"], [size for _, size, *_ in want], rtol=1e-12)
    np.testing.assert_allclose(table["mass"], [m for _, _, m, _ in want], rtol=1e-12, atol=1e-12)
    peaks = [members[np.argmax(np.abs(x[members]))] for members, *_ in want]
    assert table["peak"].tolist() == peaks
    assert table["peak_value"].tolist() == x[peaks].astype(float).tolist()


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("two_sided", [True, False])
def test_maxima_of_a_batch(backend, name, two_sided):
    domain = DOMAINS[name]
    maps = np.stack([oracle.values_on(domain, seed) for seed in range(5)] + [np.zeros(domain.n_elements, np.float32)])
    for strict, excess in ((True, False), (False, True)):
        sizes, masses = backend.cluster_maxima(backend.asarray(maps), 0.5, domain.graph, two_sided, strict, excess)
        each = [oracle.clusters(x, domain, 0.5, two_sided=two_sided, strict=strict, excess=excess) for x in maps]
        check(sizes, [max((c[1] for c in found), default=0.0) for found in each], backend=backend, rtol=1e-12)
        check(masses, [max((c[2] for c in found), default=0.0) for found in each], backend=backend, rtol=1e-12)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_labels_equal_ndimage(connectivity):
    mask = np.random.default_rng(1).random((12, 11, 10)) < 0.9
    volume = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(mask.shape), 1.0)
    cutoff = float(volume.std())
    labels, n = ndimage.label((volume > cutoff) & mask, oracles.STRUCTURES[connectivity])
    found = clusters(volume[mask], VoxelGrid(mask, connectivity=connectivity), cutoff, two_sided=False)
    np.testing.assert_array_equal(found.labels, labels[mask])
    np.testing.assert_array_equal(found.table["size"], np.bincount(labels[mask])[1:])
    np.testing.assert_allclose(found.table["mass"], ndimage.sum_labels(volume, labels, range(1, n + 1)), rtol=1e-13)


@given(
    hnp.arrays(
        np.float32, (3, 4, 5), elements=st.sampled_from([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, np.nan, np.inf, -np.inf])
    )
)
def test_any_values(volume):
    domain = flat_grid(3, 4, 5)
    x = volume.ravel()
    finite = np.abs(x[np.isfinite(x)])
    top = finite.max() if finite.size and finite.max() > 0 else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of infinite values
        got = clusters(x, domain, 1.0)
    want = oracle.clusters(x, domain, 1.0, two_sided=True, strict=True, excess=False)
    clamped = np.minimum(np.abs(x.astype(np.float64)), top)
    assert [np.flatnonzero(got.labels == k + 1).tolist() for k in range(len(want))] == [m.tolist() for m, *_ in want]
    assert got.table["mass"].tolist() == [float(clamped[m].sum()) for m, *_ in want]


def test_the_sign_of_neighbours_keeps_clusters_apart(backend):
    x = backend.asarray(np.array([4.0, 4, -4, -4, -4, 0, 4], np.float32))
    found = clusters(x, flat_grid(1, 1, 7), 3.0)
    assert host(found.labels).tolist() == [1, 1, 3, 3, 3, 0, 2]
    assert found.table["size"].tolist() == [2, 1, 3]
    positive = clusters(x, flat_grid(1, 1, 7), 3.0, two_sided=False)
    assert host(positive.labels).tolist() == [1, 1, 0, 0, 0, 0, 2]


def test_strict_or_not_at_the_threshold_in_the_precision_of_the_map(backend):
    x = backend.asarray(np.array([3.1, 3.2, -3.1], np.float32))  # float32(3.1) is below the number 3.1
    domain = flat_grid(1, 1, 3)
    assert host(clusters(x, domain, 3.1).labels).tolist() == [0, 1, 0]
    assert host(clusters(x, domain, 3.1, strict=False).labels).tolist() == [1, 1, 2]


@pytest.mark.parametrize("fill", [0.0, -1.0, np.nan])
def test_nothing_passes(backend, fill):
    domain = flat_grid(3, 3, 3)
    found = clusters(backend.asarray(np.full(27, fill)), domain, 2.0, two_sided=False)
    assert not host(found.labels).any()
    assert len(found.table) == 0
    assert found.table.dtypes.astype(str).to_dict()["size"] == "float64"


def test_everything_passes_and_is_one(backend):
    found = clusters(backend.asarray(np.full(60, 2, np.int16)), flat_grid(3, 4, 5), 1)
    assert found.table[["size", "mass", "peak"]].to_numpy().tolist() == [[60, 120, 0]]


def test_no_maps_and_no_elements(backend):
    sizes, masses = backend.cluster_maxima(
        backend.xp.zeros((0, 27), np.float32), 1.0, flat_grid(3, 3, 3).graph, True, True, False
    )
    check(sizes, np.zeros(0), backend=backend)
    check(masses, np.zeros(0), backend=backend)
    none = Graph(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0))
    sizes, _ = backend.cluster_maxima(backend.xp.zeros((2, 0), np.float32), 1.0, none, True, True, False)
    check(sizes, np.zeros(2), backend=backend)
    labels, sizes, *_ = backend.cluster_labels(backend.xp.zeros(0, np.float32), 1.0, none, True, True, False)
    check(labels, np.zeros(0, np.int32), backend=backend)
    assert len(sizes) == 0


def test_infinite_values_count_as_the_largest_finite_one(backend):
    x = backend.asarray(np.array([np.inf, 5.0, 0, -7, -np.inf], np.float32))
    with pytest.warns(RuntimeWarning, match="map holds 2 infinite values"):
        found = clusters(x, flat_grid(1, 1, 5), 3.0)
    assert found.table["mass"].tolist() == [12, 14]
    with pytest.warns(RuntimeWarning, match="map holds 1 infinite"):
        found = clusters(x[:1], flat_grid(1, 1, 1), 3.0)
    assert found.table["mass"].tolist() == [1]


def test_the_same_bits_for_every_batch_and_number_of_threads(backend):
    domain = DOMAINS["weighted"]
    maps = backend.asarray(np.stack([oracle.values_on(domain, seed) for seed in range(9)]))
    whole = [host(a) for a in backend.cluster_maxima(maps, 0.5, domain.graph, True, True, False)]
    for n in (1, 3):
        with limited_threads(n):
            parts = [
                backend.cluster_maxima(maps[i : i + n], 0.5, domain.graph, True, True, False) for i in range(0, 9, n)
            ]
        for k in range(2):
            np.testing.assert_array_equal(np.concatenate([host(part[k]) for part in parts]), whole[k])


def test_read_only_and_strided_maps():
    domain = DOMAINS["6"]
    x = oracle.values_on(domain)
    wide = np.repeat(x, 2)
    wide.setflags(write=False)
    check(clusters(wide[::2], domain, 1.0).labels, clusters(x, domain, 1.0).labels)
    check(clusters(x.astype(">f4"), domain, 1.0).labels, clusters(x, domain, 1.0).labels)


# ---- other programs, on real maps


def golden(case: str, name: str) -> np.ndarray:
    folder = GOLDEN / case
    if not folder.is_dir():
        pytest.skip(f"the outputs of PALM and MRtrix3 are not at {folder}")
    if name.endswith(".csv"):
        return np.loadtxt(folder / name, delimiter=",", ndmin=2)
    image = nib.load(folder / name).get_fdata()
    return image.reshape(image.shape[0], image.shape[1], image.shape[2], -1)


def z_of_flips(case: str, rows: slice) -> tuple[np.ndarray, VoxelGrid]:
    """One-sample z maps of PALM's own sign flips."""
    mask = golden(case, "mask.nii.gz")[..., 0] > 0
    data = golden(case, "data.nii.gz")[mask].T
    n = len(data)
    flips = np.sign(golden(case, "palm_permidx.csv")[rows])
    mean = flips @ data / n
    t = mean / np.sqrt((np.mean(data**2, axis=0) - mean**2) / (n - 1))
    return -np.sign(t) * special.ndtri(special.stdtr(n - 1, -np.abs(t))), VoxelGrid(mask, connectivity=26)


@pytest.mark.parametrize(("case", "threshold"), [("onesample_flip_exhaustive10", 2.5), ("onesample_flip_n30", 3.1)])
def test_extent_and_mass_equal_palm(case, threshold):
    z, grid = z_of_flips(case, slice(0, 40))
    sizes, masses = get_backend("cpu").cluster_maxima(z, threshold, grid.graph, False, False, False)
    np.testing.assert_array_equal(sizes, golden(case, "palm_clustere_tstat_max.csv")[:40, 0])
    np.testing.assert_allclose(masses, golden(case, "palmmass_clusterm_tstat_max.csv")[:40, 0], rtol=1e-6)
    observed = clusters(z[0], grid, threshold, two_sided=False, strict=False)
    painted = np.append(0, observed.table["size"])[observed.labels]
    np.testing.assert_array_equal(painted, golden(case, "palm_clustere_tstat.nii.gz")[grid.mask][:, 0])
    assert len(observed.table) > 0


@pytest.mark.parametrize("connectivity", [6, 26])
def test_extent_equals_mrtrix(connectivity):
    case = "regression_freedmanlane_n30"
    mask = golden(case, "mask.nii.gz")[..., 0] > 0
    z = golden(case, "mrtrix_Zstat.nii.gz")[mask][:, 0]
    want = golden(case, f"mrtrix_c{connectivity}_clustersize.nii.gz")[mask][:, 0]
    found = clusters(z, VoxelGrid(mask, connectivity=connectivity), 2.3, two_sided=False)
    np.testing.assert_array_equal(np.append(0, found.table["size"])[found.labels], want)
    assert want.max() > 10


# ---- memory and errors


def test_peak_memory_of_an_element():
    domain = flat_grid(60, 60, 60)
    x = np.random.default_rng(0).standard_normal((1, domain.n_elements)).astype(np.float32)
    backend, graph = get_backend("cpu"), domain.graph
    backend.cluster_maxima(x, 1.0, graph, True, True, False)
    tracemalloc.start()
    backend.cluster_maxima(x, 1.0, graph, True, True, False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak == pytest.approx(28 * x.size, rel=0.02)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"threshold": 0.0}, UsageError, "threshold is 0.0"),
        ({"threshold": -3.1}, UsageError, "above 0"),
        ({"threshold": np.nan}, UsageError, "threshold is nan"),
        ({"mass": "total"}, UsageError, 'mass is "total"'),
        ({"map": np.zeros(26)}, DataError, "27 elements"),
        ({"map": np.zeros((2, 27))}, DataError, "one map"),
        ({"map": np.zeros(27, complex)}, DataError, "complex"),
        ({"map": 3.0}, DataError, "27 elements"),
        ({"domain": np.ones((3, 3, 3))}, DataError, "VoxelGrid"),
        ({"device": "gpu"}, UsageError, "unknown device"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"map": np.zeros(27), "domain": flat_grid(3, 3, 3), "threshold": 3.1, **change}
    with pytest.raises(error, match=words):
        clusters(**given)


def test_the_device_of_a_host_map_can_be_chosen(standin_cupy, monkeypatch):
    from gpuroi.backends.cuda import cuda_backend

    monkeypatch.setattr("gpuroi.inference.domain_maps.get_backend", lambda name: cuda_backend(int(name[-1])))
    x = oracle.values_on(DOMAINS["6"])
    want = clusters(x, DOMAINS["6"], 1.0, device=None)
    got = clusters(x, DOMAINS["6"], 1.0, device="cuda:1")
    check(got.labels, want.labels)
    assert got.table["size"].tolist() == want.table["size"].tolist()
    with pytest.raises(BackendError, match="lies on cuda:0"):
        clusters(cuda_backend(0).asarray(x), DOMAINS["6"], 1.0, device="cuda:1")
