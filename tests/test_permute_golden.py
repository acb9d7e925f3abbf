"""Permutation inference against PALM's own output on real maps, rearrangement by rearrangement."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from gpuroi.domains import VoxelGrid
from gpuroi.inference import permutation_test
from gpuroi.inference.zscore import f_to_z, t_to_z

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
TIGHT = 1e-5


class Case:
    """One folder of golden output."""

    def __init__(self, name):
        self.folder = GOLDEN / name
        if not self.folder.is_dir():
            pytest.skip(f"PALM's outputs are not here: no folder {self.folder}")
        self.mask = self.read("mask") > 0
        self.data = nib.load(self.folder / "data.nii.gz").get_fdata()[self.mask].T
        self.design, self.contrasts = self.table("design"), self.table("contrast")

    def read(self, name):
        image = nib.load(self.folder / f"{name}.nii.gz").get_fdata()
        return image.reshape(image.shape[:3])

    def map(self, name):
        return self.read(name)[self.mask]

    def table(self, name):
        return np.loadtxt(self.folder / f"{name}.csv", delimiter=",", ndmin=2)

    def rows(self, suffix=""):
        return self.table(f"palm{suffix}_permidx").astype(np.int32)

    def grid(self, connectivity=26):
        return VoxelGrid(self.mask, connectivity=connectivity)


RUNS = [
    ("onesample_flip_exhaustive10", "", "t", 0, 2.5),
    ("onesample_flip_n30", "", "t", 0, 3.1),
    ("regression_freedmanlane_n30", "", "t", 0, 2.3),
    ("anova3_covariate_F_n30", "_c1", "t", 0, 2.3),
    ("anova3_covariate_F_n30", "_c2", "t", 1, 2.3),
    ("anova3_covariate_F_n30", "_c3", "f", None, 2.3),
    ("paired_blocks_exhaustive8", "", "t", 0, 2.3),
    ("wholeblock_exhaustive8", "", "t", 0, 2.3),
]


@pytest.mark.parametrize(("name", "suffix", "kind", "row", "threshold"), RUNS, ids=[r[0] + r[1] for r in RUNS])
def test_statistics_and_p_values_equal_palm(name, suffix, kind, row, threshold):
    case = Case(name)
    contrast = case.contrasts if row is None else case.contrasts[row]
    result = permutation_test(
        case.data, case.design, contrast, domain=case.grid(), permutations=case.rows(suffix), two_sided=False,
        cluster_threshold=threshold, cluster_scale="z", tfce=True, tfce_step="max/100", tfce_connectivity=6,
        device="cpu",
    )  # fmt: skip
    stat = f"{kind}stat"
    np.testing.assert_allclose(result.statistic, case.map(f"palm_vox_{stat}{suffix}"), rtol=TIGHT, atol=1e-7)
    if kind == "t":
        null_z = t_to_z(result.null["max_stat"], result.df)
    else:
        null_z = f_to_z(result.null["max_stat"], np.linalg.matrix_rank(contrast), result.df)
    np.testing.assert_allclose(null_z, case.table(f"palm_vox_{stat}_max{suffix}").ravel(), rtol=TIGHT)
    np.testing.assert_allclose(result.p_fwe, case.map(f"palm_vox_{stat}_fwep{suffix}"), atol=1e-6)
    np.testing.assert_allclose(result.p, case.map(f"palm_vox_{stat}_uncp{suffix}"), atol=1e-6)
    np.testing.assert_array_equal(result.null["max_size"], case.table(f"palm_clustere_{stat}_max{suffix}").ravel())
    mass = case.table(f"palmmass_clusterm_{stat}_max{suffix}").ravel()
    np.testing.assert_allclose(result.null["max_mass"], mass, rtol=TIGHT)
    np.testing.assert_allclose(result.tfce, case.map(f"palm_tfce_{stat}{suffix}"), rtol=TIGHT, atol=1e-6)
    enhanced = case.table(f"palm_tfce_{stat}_max{suffix}").ravel()
    np.testing.assert_allclose(result.null["max_tfce"], enhanced, rtol=TIGHT)
    np.testing.assert_allclose(result.tfce_p_fwe, case.map(f"palm_tfce_{stat}_fwep{suffix}"), atol=1e-6)
    size_p = np.ones(case.mask.sum())
    for _, cluster in result.cluster_table.iterrows():
        size_p[result.cluster_labels == cluster["label"]] = cluster["p_size_fwe"]
    np.testing.assert_allclose(size_p, case.map(f"palm_clustere_{stat}_fwep{suffix}"), atol=1e-6)


def test_exhaustive_flips_are_found_without_palms_list():
    case = Case("onesample_flip_exhaustive10")
    result = permutation_test(
        case.data, case.design, case.contrasts[0], errors="ise", n_permutations=5000, two_sided=False, device="cpu"
    )
    assert (result.exhaustive, result.n_permutations) == (True, 1024)
    np.testing.assert_allclose(result.p_fwe, case.map("palm_vox_tstat_fwep"), atol=1e-6)


def test_exhaustive_swaps_inside_pairs_are_found_without_palms_list():
    case = Case("paired_blocks_exhaustive8")
    result = permutation_test(
        case.data, case.design, case.contrasts[0], blocks=case.table("blocks"), two_sided=False, device="cpu"
    )
    assert (result.exhaustive, result.n_permutations) == (True, 256)
    np.testing.assert_allclose(result.p_fwe, case.map("palm_vox_tstat_fwep"), atol=1e-6)


def test_exhaustive_exchange_of_whole_blocks_is_found_without_palms_list():
    case = Case("wholeblock_exhaustive8")
    result = permutation_test(
        case.data, case.design, case.contrasts[0], blocks=case.table("blocks").ravel(), whole_blocks=True,
        two_sided=False, device="cpu",
    )  # fmt: skip
    assert (result.exhaustive, result.n_permutations) == (True, 70)
    np.testing.assert_allclose(result.p_fwe, case.map("palm_vox_tstat_fwep"), atol=1e-6)


def test_v_equals_palm_and_its_degrees_of_freedom_equal_scipy():
    """PALM's v is right, its degrees of freedom are a third of Welch's: nothing that follows from them is matched."""
    case = Case("twogroup_vstat_n30")
    groups = case.table("vg").ravel()
    result = permutation_test(
        case.data, case.design, case.contrasts[0], variance_groups=groups, permutations=case.rows()[:40],
        two_sided=False, device="cpu",
    )  # fmt: skip
    np.testing.assert_allclose(result.statistic, case.map("palm_vox_vstat"), rtol=TIGHT, atol=1e-7)
    first = groups == 2
    welch = stats.ttest_ind(case.data[first], case.data[~first], equal_var=False)
    np.testing.assert_allclose(np.abs(result.statistic), np.abs(welch.statistic), rtol=1e-7)
    np.testing.assert_allclose(result.df, welch.df, rtol=1e-7)
    np.testing.assert_allclose(result.null["max_stat"][0], t_to_z(result.statistic, result.df).max(), rtol=1e-6)


@pytest.mark.parametrize(("tail", "prefix"), [("gpd", "palmtail"), ("gamma", "palmgamma")])
def test_tails_equal_palms(tail, prefix):
    case = Case("onesample_flip_n30")
    result = permutation_test(
        case.data, case.design, case.contrasts[0], permutations=case.rows(), two_sided=False, domain=case.grid(6),
        tfce=True, tfce_step="max/100", cluster_scale="z", tail=tail, device="cpu",
    )  # fmt: skip
    want = case.map(f"{prefix}_tfce_tstat_fwep")
    small = want < 0.1
    np.testing.assert_allclose(result.tfce_p_fwe[small], want[small], rtol=2e-3)
    assert result.tail_fit["max_tfce"] is not None
