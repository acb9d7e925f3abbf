"""What a screening of many phenotypes wrote, read back from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.report.saved_screen import SavedScreen, read_json, read_table, read_volume, upper_limit

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["SavedPhenotypes"]


@dataclass(frozen=True)
class SavedPhenotypes:
    """The folder of a screening of many phenotypes.

    Attributes
    ----------
    folder : Path
    screen : SavedScreen
        People, design, mask and coverage; without contrasts.
    table, top, qq : DataFrame
        `phenotypes.tsv`, `top.tsv` and `qq.tsv`.
    about : dict
        `phenotypes.json`.
    null : float64 array, shape (n_permutations, n_phenotypes), or None
        `null.tsv`.
    """

    folder: Path
    screen: SavedScreen
    table: pd.DataFrame
    top: pd.DataFrame
    qq: pd.DataFrame
    about: dict[str, Any]
    null: NDArray[np.float64] | None

    @classmethod
    def read(cls, folder: str | Path) -> SavedPhenotypes:
        """Read a folder.

        Raises
        ------
        DataError
            If a file is missing or cannot be read.
        """
        home = Path(folder)
        table, top, qq = (read_table(home / f"{name}.tsv", text=["phenotype"]) for name in ("phenotypes", "top", "qq"))
        null = home / "null.tsv"
        values = read_table(null).to_numpy(np.float64) if null.is_file() else None
        return cls(home, SavedScreen.read(home), table, top, qq, read_json(home / "phenotypes.json"), values)

    @property
    def n_permutations(self) -> int:
        """0 where there were none."""
        return int(self.about["NumberOfPermutations"])

    @property
    def two_sided(self) -> bool:
        """Large values of either sign count."""
        return bool(self.about["TwoSided"])

    @property
    def sizes(self) -> NDArray[np.float64]:
        """The largest |t| of each phenotype, or t if one-sided."""
        found = self.table["max_stat"].to_numpy(np.float64)
        return np.abs(found) if self.two_sided else found

    @cached_property
    def limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """What |t| has to exceed for p <= 0.05: over the voxels, and over voxels and phenotypes; one a phenotype."""
        from gpuroi.inference.zscore import t_to_z, z_to_t

        if self.null is None:
            return None
        df = self.table["df"].to_numpy(np.float64)
        own = np.array([upper_limit(null) for null in self.null.T])
        overall = upper_limit(t_to_z(self.null, np.broadcast_to(df, self.null.shape)).max(axis=1))
        return own, np.asarray(z_to_t(np.full(len(df), overall), df))

    @property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """t of the phenotypes whose maps were kept, (X, Y, Z)."""
        found = {}
        for path in sorted(self.folder.glob("phenotype-*_stat-t_statmap.nii.gz")):
            about = read_json(path.with_name(path.name.replace(".nii.gz", ".json")))
            found[str(about["Phenotype"])] = read_volume(path)[0]
        return {name: found[name] for name in self.table["phenotype"] if name in found}
