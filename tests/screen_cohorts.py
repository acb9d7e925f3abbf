"""A small cohort on disk for tests of screening, and what is the same in two folders of results."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

SHAPE = (12, 13, 14)
AFFINE = np.array([[-3.0, 0, 0, 20], [0, 3, 0, -15], [0, 0, 3.5, -10], [0, 0, 0, 1]])
N = 20


def write_image(path: str | Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(data, affine), path)


def write_cohort(n: int = N, seed: int = 0) -> pd.DataFrame:
    """Maps with a planted effect of group (positive) and of age (negative), a table, a mask and an atlas, here."""
    random = np.random.default_rng(seed)
    group = np.arange(n) % 2
    age = random.integers(20, 70, n)
    Path("maps").mkdir()
    rows = []
    for k in range(n):
        data = random.standard_normal(SHAPE)
        data[2:6, 2:6, 2:6] += 2.5 * group[k]
        data[7:11, 7:11, 7:11] -= 0.08 * (age[k] - 45)
        name = f"maps/sub-{k:02d}_map.nii.gz"
        write_image(name, data.astype(np.float32))
        rows.append((f"{k:02d}", name, ["control", "patient"][group[k]], age[k], f"f{k // 2}", random.normal()))
    table = pd.DataFrame(rows, columns=["participant_id", "map", "group", "age", "family", "score"])
    save_table(table)
    mask = np.ones(SHAPE, np.uint8)
    mask[0] = 0
    write_image("mask.nii.gz", mask)
    atlas = np.zeros(SHAPE, np.int16)
    atlas[:6], atlas[6:], atlas[0, 0] = 7, 400, 9
    write_image("atlas_dseg.nii.gz", atlas)
    Path("atlas_dseg.tsv").write_text("index\tname\n400\tBack\n7\tFront\n9\tOutside\n")
    return table


def save_table(table: pd.DataFrame) -> None:
    table.to_csv("participants.tsv", sep="\t", index=False, na_rep="n/a")


def maps_of(table: pd.DataFrame) -> np.ndarray:
    """All voxels of all maps, (n, X, Y, Z)."""
    return np.stack([nib.load(path).get_fdata() for path in table["map"]])


def volume(path: str | Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def result_bytes(folder: str | Path) -> dict[str, bytes]:
    """The files that depend on inputs and settings alone: not logs, records and what is drawn."""
    found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
    passing = {"provenance.json", "report.html", "design.svg"}
    return {
        name: path.read_bytes()
        for name, path in sorted(found.items())
        if name not in passing and not name.startswith(("logs/", "figures/"))
    }
