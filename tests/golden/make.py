"""Numbers of our own from an earlier day, for `tests/test_golden.py`: `python -m tests.golden.make` writes them anew.

They are no proof that a number is right (other tests ask SciPy, statsmodels and PALM), but that it is the one of
yesterday, on any machine. Who writes them anew says in CHANGELOG.md, under "Numbers", what moved and why.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpuroi.domains import VoxelGrid
from gpuroi.inference import glm, permutation_test
from gpuroi.inference.phenotypes import phenotype_test
from gpuroi.ops import label, smooth

__all__ = ["FILE", "MEASURED", "computed", "moved"]

FILE = Path(__file__).with_name("numbers.json")
SHAPE = (5, 6, 4)
FLOAT64, FLOAT32 = 1e-9, 2e-5  # relative, and absolute below 1: sums in float64 and products in float32, of any BLAS
COUNTED = 0.0


def study() -> tuple[np.ndarray, np.ndarray]:
    """Data (16, 120) and design (16, 3), from a generator whose numbers are fixed for ever."""
    random = np.random.RandomState(20261121)
    design = np.column_stack([np.ones(16), np.arange(16) % 2, random.standard_normal(16)])
    data = random.standard_normal((16, 120)) + 100
    data[:, 30:52] += 1.8 * design[:, 1:2]
    data[:, 80:95] -= 1.2 * design[:, 2:3]
    return data, design


def fitted(contrast: list[Any]) -> Any:
    data, design = study()
    return glm(data, design, contrast, device="cpu")


def permuted(**options: Any) -> Any:
    data, design = study()
    grid = VoxelGrid(np.ones(SHAPE, bool), np.diag([2.0, 2.0, 3.0, 1.0]))
    found = {"domain": grid, "cluster_threshold": 2.0, "tfce": True, "n_permutations": 200, "seed": 3} | options
    return permutation_test(data, design, found.pop("contrast", [0, 1, 0]), device="cpu", **found)


def clusters() -> Any:
    return permuted().cluster_table.select_dtypes("number").to_numpy()


def traits() -> Any:
    data, design = study()
    random = np.random.RandomState(7)
    columns = random.standard_normal((16, 4)) + design[:, 1:2]
    columns[3, 2] = np.nan
    return phenotype_test(data, columns, design[:, [0, 2]], n_permutations=100, top=3, seed=1, device="cpu")


def volume() -> np.ndarray:
    return np.random.RandomState(4).standard_normal(SHAPE)


def screened(file: str) -> Any:
    """A table of a small screening, as text."""
    import nibabel as nib
    import pandas as pd

    from gpuroi.workflows.screen import screen

    data, design = study()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ids = [f"sub-{k:02d}" for k in range(len(data))]
        for name, row in zip(ids, data.astype(np.float32), strict=True):
            nib.save(nib.Nifti1Image(row.reshape(SHAPE), np.diag([2.0, 2.0, 3.0, 1.0])), home / f"{name}.nii")
        table = pd.DataFrame({"participant_id": ids, "map": [f"{name}.nii" for name in ids]})
        table["group"] = np.where(design[:, 1] > 0, "patient", "control")
        table["age"] = np.round(40 + 10 * design[:, 2], 2)
        table.to_csv(home / "participants.tsv", sep="\t", index=False)
        screen(
            home / "participants.tsv",
            formula="map ~ group + age",
            contrasts=["patient=group[T.patient]"],
            n_permutations=100,
            cluster_threshold=3.0,
            device="cpu",
        ).save(home / "out", figures=False)
        numbers = pd.read_csv(home / "out" / file, sep="\t").select_dtypes("number")
    return numbers.to_numpy()


MEASURED: dict[str, tuple[Callable[[], Any], float]] = {
    "t": (lambda: fitted([0, 1, 0]).statistic, FLOAT64),
    "effect": (lambda: fitted([0, 1, 0]).effect, FLOAT64),
    "log10 p of t": (lambda: fitted([0, 1, 0]).log10p, FLOAT64),
    "F": (lambda: fitted([[0, 1, 0], [0, 0, 1]]).statistic, FLOAT64),
    "z of F": (lambda: fitted([[0, 1, 0], [0, 0, 1]]).z, FLOAT64),
    "p of permutations": (lambda: permuted().p, COUNTED),
    "familywise p": (lambda: permuted().p_fwe, COUNTED),
    "null of max t": (lambda: permuted().null["max_stat"], FLOAT64),
    "null of cluster size": (lambda: permuted().null["max_size"], COUNTED),
    "null of cluster mass": (lambda: permuted().null["max_mass"], FLOAT64),
    "cluster labels": (lambda: permuted().cluster_labels, COUNTED),
    "cluster table": (clusters, FLOAT64),
    "TFCE": (lambda: permuted().tfce, FLOAT64),
    "familywise p of TFCE": (lambda: permuted().tfce_p_fwe, COUNTED),
    "F, familywise p": (lambda: permuted(contrast=[[0, 1, 0], [0, 0, 1]]).p_fwe, COUNTED),
    "sign flips, familywise p": (lambda: permuted(contrast=[0, 0, 1], errors="ise").p_fwe, COUNTED),
    "a group of sign flips, p": (lambda: permuted(contrast=[0, 0, 1], errors="ise", flips="group").p, COUNTED),
    "phenotypes": (lambda: traits().table[["n", "df", "element", "t", "p", "p_fwe", "p_fwe_all"]].to_numpy(), FLOAT64),
    "phenotypes, the largest": (lambda: traits().top[["rank", "element", "t"]].to_numpy(), FLOAT64),
    "smoothed": (lambda: smooth(volume(), 6.0, (2.0, 2.0, 3.0)), FLOAT64),
    "labels": (lambda: label(volume() > 0.6, 18)[0], COUNTED),
    "clusters.tsv": (lambda: screened("contrast-patient_clusters.tsv"), FLOAT32),
    "design.tsv": (lambda: screened("design.tsv"), FLOAT64),
    "means of clusters": (lambda: screened("contrast-patient_desc-clusters_means.tsv"), FLOAT32),
}
"""What is computed, and by how much it may differ."""


def computed(name: str) -> list[Any]:
    """Return the numbers as the file keeps them: flat, null for NaN, 12 digits."""
    values = np.asarray(MEASURED[name][0]()).ravel()
    if values.dtype.kind in "iub":
        return [int(value) for value in values]
    return [None if np.isnan(value) else float(f"{value:.12g}") for value in values.astype(np.float64)]


def moved(name: str, now: list[Any], before: list[Any]) -> str:
    """Say what moved, and by how much; nothing if nothing did."""
    new, old = (np.array([np.nan if value is None else value for value in values], float) for values in (now, before))
    if new.shape != old.shape:
        return f"{name}: {new.size} values, were {old.size}"
    change = np.where(np.isnan(new) & np.isnan(old), 0.0, np.abs(new - old) / np.maximum(np.abs(old), 1))
    change[np.isnan(change)] = np.inf
    wrong = change > MEASURED[name][1]
    if not wrong.any():
        return ""
    at = int(change.argmax())
    return (
        f"{name}: {np.count_nonzero(wrong)} of {old.size} values moved by more than {MEASURED[name][1]:g}, "
        f"number {at} the most, by {change[at]:.3g}: is {now[at]}, was {before[at]}"
    )


def main() -> None:
    """Write all numbers, and say what moved."""
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    now = {name: computed(name) for name in MEASURED}
    for name, values in now.items():
        told = moved(name, values, before[name]) if name in before else f"{name}: {len(values)} values, new"
        if told:
            print(told)
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in now.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
