"""cluster_level_inference against closed testing by all subsets, nilearn, and components of the mesh."""

from __future__ import annotations

import inspect
import itertools
import warnings

import networkx as nx
import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.inference.true_discoveries import hommel_value, true_discovery_proportions
from gpuroi.nilearn import cluster_level_inference


def nilearns(*args, **options):
    from nilearn.glm import cluster_level_inference as theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return theirs(*args, **options)


def nifti(values, affine=None):
    return nib.Nifti1Image(values, np.eye(4) if affine is None else affine)


def activation(seed=0, shape=(12, 11, 10), height=4.0):
    z = np.random.default_rng(seed).standard_normal(shape)
    z[2:5, 2:5, 2:5] += height
    z[8:10, 8:10, 6:9] += height
    return z


# ------------------------------------------------------------------ the statistics


def simes_rejects(p, alpha):
    """Is there a p among the m that is at most its share of alpha?"""
    return any(m_p * len(p) <= rank * alpha for rank, m_p in enumerate(sorted(p), start=1))


def closed_testing(p, alpha):
    """Size of the largest set that Simes' test accepts, and the true discoveries of every set, from all 2^n sets."""
    n = len(p)
    sets = [frozenset(c) for k in range(1, n + 1) for c in itertools.combinations(range(n), k)]
    accepted = {s for s in sets if not simes_rejects([p[i] for i in s], alpha)}
    not_rejected = {s for s in sets if any(s <= larger for larger in accepted)}  # by the closure
    true = {s: len(s) - max((len(t) for t in not_rejected if t <= s), default=0) for s in sets}
    return max((len(s) for s in accepted), default=0), true


P_VALUES = st.one_of(
    st.lists(st.integers(0, 64).map(lambda k: k / 64), min_size=1, max_size=7),  # ties, and ties with alpha, exactly
    st.lists(st.floats(0, 1), min_size=1, max_size=7),
)


@given(P_VALUES, st.sampled_from([1 / 64, 1 / 16, 0.25, 0.5, 1.0]))
def test_against_all_subsets(p, alpha):
    h, true = closed_testing(p, alpha)
    assert hommel_value(p, alpha) == h
    for one, expected in true.items():
        inside = [1 if i in one else 0 for i in range(len(p))]
        share = true_discovery_proportions(p, inside, 1, h, alpha)
        assert round(float(share[0]) * len(one)) == expected


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(1e-9, 7), (1e-7, 6), (0.059, 6), (0.061, 5), (0.249, 5), (0.251, 4), (0.399, 4), (0.401, 3), (0.899, 3),
     (0.901, 0)],
)  # fmt: skip
def test_published_example(alpha, expected):
    """Example of Meijer, Krebs and Goeman (2019)."""
    assert hommel_value([0.9, 1e-8, 0.01, 0.08, 0.1, 0.5, 0.7], alpha) == expected


@given(st.integers(0, 10_000), st.integers(1, 400), st.floats(0.001, 0.6))
def test_hommel_value_of_many_as_statsmodels(seed, n, alpha):
    """statsmodels' Hommel adjustment rejects those p-values for which h p <= alpha."""
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(seed)
    p = rng.uniform(size=n) ** rng.choice([1, 3, 9])
    rejected = multipletests(p, alpha, method="hommel")[0]
    np.testing.assert_array_equal(hommel_value(p, alpha) * p <= alpha, rejected)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_ends_of_alpha(alpha):
    p = np.array([0.0, 0.2, 0.2, 1.0])
    assert hommel_value(p, alpha) == closed_testing(p.tolist(), alpha)[0]
    assert hommel_value([], 0.05) == 0
    assert true_discovery_proportions([0.5], [0], 2, 1, 0.05).tolist() == [0, 0]


@pytest.mark.parametrize("p", [[0.5, np.nan], [1.1], [-0.1], [[0.5]]])
def test_p_values_that_are_none(p):
    with pytest.raises(DataError, match="p has shape"):
        hommel_value(p, 0.05)


# ------------------------------------------------------------------ volumes


def test_signature_is_nilearns():
    from nilearn.glm import cluster_level_inference as theirs

    ours, other = inspect.signature(cluster_level_inference), inspect.signature(theirs)
    assert [(p.name, p.default) for p in ours.parameters.values()] == [
        (p.name, p.default) for p in other.parameters.values()
    ]


@pytest.mark.parametrize(
    ("name", "threshold", "alpha"),
    [
        ("statmaps/motor_lips.nii.gz", [2.5, 3.0, 3.5], 0.05),
        ("statmaps/motor_lips_nan.nii.gz", [1.0, 2.0], 0.3),
        ("statmaps/image_10426.nii.gz", 2.5, 0.05),
        ("statmaps/image_10426.nii.gz", [2.5, 3.0, 4.0], 0.01),
        ("epi_oro/zstat1.nii.gz", 2.5, 0.05),
        ("epi_oro/zstat1.nii.gz", [1.0, 2.0], 0.3),
        ("nimare_pain21/pain_01_z.nii.gz", [2.5, 2.0], 0.05),
        ("nimare_pain21/pain_02_z.nii.gz", 1.0, 0.05),
    ],
)
def test_real_maps_as_nilearn(open_data, name, threshold, alpha):
    ours = cluster_level_inference(str(open_data / name), threshold=threshold, alpha=alpha)
    theirs = nilearns(str(open_data / name), threshold=threshold, alpha=alpha)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.get_data_dtype().newbyteorder("=") == theirs.get_data_dtype().newbyteorder("=")
    assert ours.shape == theirs.shape


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_types_orders_and_masks_as_nilearn(dtype, order):
    z = np.asarray(activation() * (1 if np.dtype(dtype).kind == "f" else 1.4), dtype, order=order)
    mask = np.zeros(z.shape, np.int8)
    mask[1:11, 1:, :9] = 3
    for options in ({}, {"mask_img": nifti(mask)}):
        ours = cluster_level_inference(nifti(z), threshold=[2.0, 3.1], **options)
        theirs = nilearns(nifti(z), threshold=[2.0, 3.1], **options)
        assert ours.get_fdata().max() > 0.3
        assert ours.get_data_dtype().kind == "f"
        np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata(), rtol=1e-6)


def test_shares_by_hand():
    z = activation(3)
    shares = cluster_level_inference(nifti(z), nifti(np.ones(z.shape, np.uint8)), threshold=2.5).get_fdata()
    p = stats.norm.sf(z)
    h = hommel_value(p.ravel(), 0.05)
    labels, n = ndi.label(z > 2.5)
    for k in range(1, n + 1):
        own = np.sort(p[labels == k])
        bound = max(1 - u + np.count_nonzero(h * own <= u * 0.05) for u in range(1, len(own) + 1))
        assert shares[labels == k] == pytest.approx(max(bound, 0) / len(own))
    assert (shares[labels == 0] == 0).all()


@pytest.mark.parametrize("height", [39.0, 60.0, 1e4])
def test_large_z_count_once(height):
    """p underflows to 0 above z = 38; nilearn then finds more active voxels than there are."""
    z = activation(height=0)
    z[2:5, 2:5, 2:5] = height
    assert nilearns(nifti(z), threshold=5.0).get_fdata().max() > 1
    shares = cluster_level_inference(nifti(z), threshold=5.0).get_fdata()
    assert (shares[2:5, 2:5, 2:5] == 1).all()
    assert np.count_nonzero(shares) == 27


def test_all_significant_is_everything():
    z = np.full((4, 4, 4), 5.0) + np.arange(64).reshape(4, 4, 4) / 100
    mask = nifti(np.ones(z.shape, np.uint8))
    np.testing.assert_array_equal(cluster_level_inference(nifti(z), mask, threshold=2.0).get_fdata(), 1)
    assert nilearns(nifti(z), mask, threshold=2.0).get_fdata().max() == pytest.approx(65 / 64)


def test_bounds_hold_and_fall_with_alpha():
    z, truth = activation(7, height=3.5), np.zeros((12, 11, 10), bool)
    truth[2:5, 2:5, 2:5] = truth[8:10, 8:10, 6:9] = True
    labels, n = ndi.label(z > 2.0)
    previous = np.zeros(z.shape)
    for alpha in (0.001, 0.05, 0.3):
        shares = cluster_level_inference(nifti(z), threshold=2.0, alpha=alpha).get_fdata()
        assert (shares >= previous).all()
        previous = shares
    strict = cluster_level_inference(nifti(z), threshold=2.0, alpha=0.001).get_fdata()
    for k in range(1, n + 1):
        assert strict[labels == k].max() <= truth[labels == k].mean() + 1e-12


def test_nan_and_infinity_count_as_zero():
    z = activation()
    z[0, 0, 0], z[6, 6, 6], z[7, 7, 7] = np.nan, np.inf, -np.inf
    mask = nifti(np.ones(z.shape, np.uint8))
    ours = cluster_level_inference(nifti(z), mask, threshold=2.5).get_fdata()
    zeroed = cluster_level_inference(nifti(np.where(np.isfinite(z), z, 0)), mask, threshold=2.5).get_fdata()
    np.testing.assert_array_equal(ours, zeroed)
    np.testing.assert_array_equal(ours, nilearns(nifti(z), mask, threshold=2.5).get_fdata())


def test_default_threshold_warns_and_verbose_says(capsys):
    with pytest.warns(FutureWarning, match="the default 'threshold' will be set to"):
        cluster_level_inference(nifti(activation()), verbose=1)
    assert "Hommel's value is" in capsys.readouterr().out


@pytest.mark.kernels
def test_cuda_gives_the_same(standin_cuda, monkeypatch):
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    image = nifti(activation())
    expected = cluster_level_inference(image, threshold=[2.0, 3.1]).get_fdata()
    monkeypatch.setenv("GPUROI_DEVICE", "cuda")
    np.testing.assert_array_equal(cluster_level_inference(image, threshold=[2.0, 3.1]).get_fdata(), expected)


def test_refused(tmp_path):
    image = nifti(activation())
    for threshold in (-1, [-1, 2], np.nan):
        with pytest.raises(UsageError, match="'threshold' cannot be negative or contain negative values"):
            cluster_level_inference(image, threshold=threshold)
    for alpha in (-0.1, 2, np.nan):
        with pytest.raises(UsageError, match="alpha should be between 0 and 1"):
            cluster_level_inference(image, threshold=2.0, alpha=alpha)
    with pytest.raises(GridError, match="another grid"):
        cluster_level_inference(image, nifti(np.ones((12, 11, 9), np.uint8)), threshold=2.0)
    with pytest.raises(GridError, match="another grid"):
        cluster_level_inference(image, nifti(np.ones((12, 11, 10), np.uint8), np.diag([2, 2, 2, 1])), threshold=2.0)
    with pytest.raises(DataError, match="masks all data"):
        cluster_level_inference(image, nifti(np.zeros((12, 11, 10), np.uint8)), threshold=2.0)
    with pytest.raises(TypeError, match="incompatible dimensionality"):
        cluster_level_inference(nifti(np.ones((3, 3, 3, 2), np.float32)), threshold=2.0)
    with pytest.raises(DataError, match=r"absent\.nii"):
        cluster_level_inference(str(tmp_path / "absent.nii"), threshold=2.0)


# ------------------------------------------------------------------ surfaces


@pytest.fixture(scope="module")
def surface():
    from nilearn.datasets import load_fsaverage_data
    from nilearn.image import new_img_like

    img = load_fsaverage_data(mesh_type="inflated")  # curvature; made into something like z
    return new_img_like(img, {name: 4 * values.astype(np.float64) for name, values in img.data.parts.items()})


def components(mesh, inside):
    graph = nx.Graph()
    graph.add_nodes_from(np.flatnonzero(inside))
    for a, b in itertools.combinations(range(3), 2):
        graph.add_edges_from(e for e in mesh.faces[:, [a, b]].tolist() if inside[e[0]] and inside[e[1]])
    return [sorted(piece) for piece in nx.connected_components(graph)]


def test_surface_clusters_follow_the_mesh(surface, device):
    result = cluster_level_inference(surface, threshold=2.0)
    for name, values in surface.data.parts.items():
        p = stats.norm.sf(values.ravel())
        h = hommel_value(p, 0.05)
        expected = np.zeros(len(p))
        pieces = components(surface.mesh.parts[name], values.ravel() > 2.0)
        for piece in pieces:
            own = p[piece]
            u = np.arange(1, len(piece) + 1)
            bound = np.max(1 - u + (h * own[:, None] <= u * 0.05).sum(axis=0))
            expected[piece] = max(bound, 0) / len(piece)
        np.testing.assert_allclose(result.data.parts[name].ravel(), expected, rtol=1e-12)
        n_on_line = ndi.label(values.ravel() > 2.0)[1]
        assert n_on_line > 2 * len(pieces)  # what nilearn takes for clusters


def test_vertices_that_follow_each_other_need_not_touch():
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    # Two triangles apart, the vertices of which are numbered in turn.
    coordinates = np.array([[0, 0, 0], [9, 0, 0], [1, 0, 0], [9, 1, 0], [0, 1, 0], [9, 0, 1]], float)
    mesh = InMemoryMesh(coordinates, np.array([[0, 2, 4], [1, 3, 5]]))
    z = np.array([6.0, 2.2, 6, 2.2, 6, 2.2])
    image = SurfaceImage(PolyMesh(left=mesh, right=mesh), {"left": z, "right": np.zeros(6)})
    ours = cluster_level_inference(image, threshold=2.0, alpha=0.001)
    theirs = nilearns(image, threshold=2.0, alpha=0.001)
    np.testing.assert_array_equal(ours.data.parts["left"].ravel(), [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(theirs.data.parts["left"].ravel(), np.full(6, 0.5))
    assert (ours.data.parts["right"] == 0).all()


def test_surface_masks(surface):
    from nilearn.image import new_img_like

    keep = {name: np.arange(len(v)) % 5 > 0 for name, v in surface.data.parts.items()}
    keep["right"][:] = False
    result = cluster_level_inference(surface, new_img_like(surface, keep), threshold=2.0)
    assert (result.data.parts["right"] == 0).all()
    assert (result.data.parts["left"].ravel()[~keep["left"]] == 0).all()
    assert result.data.parts["left"].max() > 0
    with pytest.raises(TypeError, match="both be volumes or both"):
        cluster_level_inference(surface, nifti(np.ones((3, 3, 3), np.uint8)), threshold=2.0)
    with pytest.raises(TypeError, match="both be volumes or both"):
        cluster_level_inference(nifti(activation()), surface, threshold=2.0)


def test_nan_on_a_surface_is_left_out(surface):
    from nilearn.image import new_img_like

    parts = {name: values.copy() for name, values in surface.data.parts.items()}
    parts["left"][:100] = np.nan
    with pytest.warns(UserWarning, match="Non-finite values detected"):
        result = cluster_level_inference(new_img_like(surface, parts), threshold=2.0)
    assert (result.data.parts["left"].ravel()[:100] == 0).all()
    assert np.isfinite(result.data.parts["left"]).all()
