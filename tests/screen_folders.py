"""Folders of screenings of made-up people: what the reports on them are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from gpuroi.workflows.screen import screen

__all__ = ["AFFINE", "made_up_screen"]

AFFINE = np.array([[4.0, 0, 0, -36], [0, 4, 0, -44], [0, 0, 4, -30], [0, 0, 0, 1]])
AREAS = ("Left <Area & one>", "Right Two", "Empty Area")


def made_up_screen(
    home: Path,
    *,
    contrasts: tuple[str, ...] = ("patient=group[T.patient]", "age"),
    shape: tuple[int, int, int] = (18, 22, 16),
    affine: np.ndarray = AFFINE,
    mask: np.ndarray | None = None,
    n: int = 24,
    effect: float = 2.0,
    n_permutations: int = 100,
    seed: int = 0,
    formula: str = "map ~ group + age",
    **options: Any,
) -> Path:
    """Screen `n` people: patients have more in one ball on the right, age takes away in another on the left.

    One more person has no age, and is left out. Returns the folder of the results.
    """
    random = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, k) if k > 1 else np.zeros(1) for k in shape]
    place = np.stack(np.meshgrid(*axes, indexing="ij"))  # (3, X, Y, Z)
    mask = (place**2).sum(0) < 0.9 if mask is None else mask
    group = np.arange(n + 1) % 2
    age = random.uniform(20, 70, n + 1).round(1)
    maps = random.standard_normal((n + 1, *shape))
    for axis in (1, 2, 3):
        maps = (maps + np.roll(maps, 1, axis)) / np.sqrt(2)
    right, left = (
        ((place - np.reshape(at, (3, 1, 1, 1))) ** 2).sum(0) < 0.09 for at in ([0.5, 0.1, 0], [-0.4, -0.3, 0])
    )
    maps[:, right] += effect * group[:, None]
    maps[:, left] -= effect / 18 * (age[:, None] - 45)
    home.mkdir(parents=True)
    ids = [f"sub-{k:02d}" for k in range(1, n + 2)]
    for name, values in zip(ids, maps, strict=True):
        nib.Nifti1Image(values.astype(np.float32), affine).to_filename(home / f"{name}.nii")
    nib.Nifti1Image(mask.astype(np.uint8), affine).to_filename(home / "mask.nii")
    labels = np.where(place[0] < 0, 1, 2) * mask
    nib.Nifti1Image(labels.astype(np.int16), affine).to_filename(home / "atlas_dseg.nii.gz")
    names = pd.DataFrame({"index": [1, 2, 3], "name": AREAS})
    names.to_csv(home / "atlas_dseg.tsv", sep="\t", index=False)
    table = pd.DataFrame(
        {"participant_id": ids, "group": np.where(group, "patient", "control"), "age": age.astype(str)}
    )
    table.loc[n, "age"] = "n/a"
    table.assign(map=[f"{name}.nii" for name in ids]).to_csv(home / "participants.tsv", sep="\t", index=False)
    found = screen(
        home / "participants.tsv",
        formula=formula,
        contrasts=contrasts,
        mask=home / "mask.nii",
        n_permutations=n_permutations,
        seed=1,
        device="cpu",
        atlas=home / "atlas_dseg.nii.gz",
        **options,
    )
    return found.save(home / "out", figures=False)
