"""`gpuroi screen`, from the table to the files, against PALM's own output on real maps."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gpuroi.cli import main
from gpuroi.inference.zscore import t_to_z

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
TIGHT = 1e-5
CASES = {  # folder: formula, contrast, cluster-forming z, errors
    "regression_freedmanlane_n30": ("map ~ success", "success", 2.3, "ee"),
    "onesample_flip_n30": ("map ~ 1", "Intercept", 3.1, "ise"),
}


class Golden:
    """PALM's files of one case, and where their smaller grid lies in that of the maps."""

    def __init__(self, name: str, like: nib.Nifti1Image) -> None:
        self.folder = GOLDEN / name
        if not self.folder.is_dir():
            pytest.skip(f"PALM's outputs are not here: no folder {self.folder}")
        mask = nib.load(self.folder / "mask.nii.gz")
        first = np.rint(np.linalg.inv(like.affine) @ mask.affine[:, 3])[:3].astype(int)
        self.place = tuple(slice(i, i + n) for i, n in zip(first, mask.shape, strict=True))
        self.mask = np.zeros(like.shape[:3], np.uint8)
        self.mask[self.place] = mask.get_fdata() > 0

    def map(self, name: str) -> np.ndarray:
        volume = np.zeros(self.mask.shape)
        volume[self.place] = nib.load(self.folder / f"palm_{name}.nii.gz").get_fdata()[..., 0]
        return volume[self.mask > 0]

    def null(self, name: str) -> np.ndarray:
        return np.loadtxt(self.folder / f"{name}_max.csv", delimiter=",").ravel()


@pytest.fixture(params=CASES)
def case(request, here, open_data):
    """The 30 maps with their covariate as a table, and what PALM made of them."""
    data = open_data / "wager2008_emoreg"
    maps = [data / f"con_{81_0000 + k:08d}.img" for k in range(1, 31)]
    score = pd.read_csv(data / "Wager_2008_emotionreg_behavioral_data.txt", sep="\t")["Y_Reappraisal_Success"]
    ids = [f"{k:02d}" for k in range(1, 31)]
    pd.DataFrame({"participant_id": ids, "map": maps, "success": score}).to_csv("people.tsv", sep="\t", index=False)
    first = nib.load(maps[0])
    golden = Golden(request.param, first)
    nib.save(nib.Nifti1Image(golden.mask, first.affine), "mask.nii.gz")
    return golden, CASES[request.param]


def test_the_command_reproduces_palm(case):
    golden, (formula, contrast, threshold, errors) = case
    code = main([
        "screen", "people.tsv", "--formula", formula, "--contrast", contrast, "--mask", "mask.nii.gz", "--one-sided",
        "--cluster-scale", "z", "--cluster-threshold", str(threshold), "--connectivity", "26", "--errors", errors,
        "--tfce", "--tfce-connectivity", "6", "--tfce-step", "max/100", "--device", "cpu", "--no-figures",
        "--permutations", str(golden.folder / "palm_permidx.csv"), "--out", "out",
    ])  # fmt: skip
    assert code == 0

    def ours(name: str) -> np.ndarray:
        volume = nib.load(f"out/contrast-{contrast}_{name}.nii.gz").get_fdata()
        assert not volume[golden.mask == 0].any()
        return volume[golden.mask > 0]

    def corrected(name: str) -> np.ndarray:
        return 10 ** -ours(f"stat-logp_desc-{name}FWE_statmap")

    np.testing.assert_allclose(ours("stat-t_statmap"), golden.map("vox_tstat"), rtol=TIGHT, atol=1e-6)
    np.testing.assert_allclose(corrected("voxel"), golden.map("vox_tstat_fwep"), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(corrected("size"), golden.map("clustere_tstat_fwep"), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours("stat-tfce_statmap"), golden.map("tfce_tstat"), rtol=TIGHT, atol=1e-5)
    np.testing.assert_allclose(corrected("tfce"), golden.map("tfce_tstat_fwep"), rtol=1e-6, atol=1e-6)

    null = pd.read_csv(f"out/contrast-{contrast}_null.tsv", sep="\t")
    df = 30 - len(formula.split("+")) - ("success" in formula)
    np.testing.assert_allclose(t_to_z(null["max_stat"].to_numpy(), df), golden.null("palm_vox_tstat"), rtol=TIGHT)
    np.testing.assert_array_equal(null["max_size"], golden.null("palm_clustere_tstat"))
    np.testing.assert_allclose(null["max_mass"], golden.null("palmmass_clusterm_tstat"), rtol=TIGHT)
    np.testing.assert_allclose(null["max_tfce"], golden.null("palm_tfce_tstat"), rtol=TIGHT)

    clusters = pd.read_csv(f"out/contrast-{contrast}_clusters.tsv", sep="\t")
    labels = ours("desc-clusters_dseg").astype(int)
    extent = golden.map("clustere_tstat")
    np.testing.assert_array_equal(np.append(0, clusters["Voxels"])[labels], extent)
    assert clusters["Peak Stat"].is_monotonic_decreasing
    for _, row in clusters.iterrows():
        at = labels == row["Cluster ID"]
        np.testing.assert_allclose(row["p_size_FWE"], golden.map("clustere_tstat_fwep")[at][0], atol=1e-6)
        np.testing.assert_allclose(row["p_peak_FWE"], golden.map("vox_tstat_fwep")[at].min(), atol=1e-6)
        np.testing.assert_allclose(row["p_tfce_FWE"], golden.map("tfce_tstat_fwep")[at].min(), atol=1e-6)
        np.testing.assert_allclose(row["Peak Stat"], golden.map("vox_tstat")[at].max(), rtol=TIGHT)
