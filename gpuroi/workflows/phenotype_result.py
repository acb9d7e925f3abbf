"""What a screening of many phenotypes found, and the folder that it is saved to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import Card
from gpuroi.workflows.cohort_result import CohortResult

if TYPE_CHECKING:
    import os

    import pandas as pd

    from gpuroi.cohort.design import CohortDesign
    from gpuroi.cohort.missing import Coverage
    from gpuroi.cohort.participants import Participants
    from gpuroi.domains import VoxelGrid
    from gpuroi.images.read import Image
    from gpuroi.inference.phenotype_tally import PhenotypeResult
    from gpuroi.workflows.screen_settings import ScreenSettings

__all__ = ["PhenotypeScreenResult", "file_labels"]

_COLUMNS = {
    "phenotype": ("Column of the table of participants", ""),
    "n": ("People who have the phenotype and take part in its test", ""),
    "df": ("Degrees of freedom of t", ""),
    "rank": ("1 is the largest statistic of the phenotype", ""),
    "voxels": ("Voxels that have a statistic", ""),
    "voxels_left_out": ("Voxels that are constant or not finite in the people who have the phenotype", ""),
    "max_stat": ("t of the largest |t| (of the largest t, one-sided), with its sign", ""),
    "stat": ("t, with its sign", ""),
    "X": ("Place of the voxel, to the right, in the space of the images", "mm"),
    "Y": ("The same, to the front", "mm"),
    "Z": ("The same, up", "mm"),
    "p": ("Uncorrected parametric p of this voxel", ""),
    "p_FWE": ("Familywise corrected over the voxels of this phenotype, by permutations", ""),
    "p_FWE_all": ("Familywise corrected over all voxels and all phenotypes, by permutations", ""),
    "t": ("Lower end of the step of |t| (of t, one-sided)", ""),
    "log10p": ("-log10 of the parametric p of this t", ""),
    "voxels_reaching": ("Voxels whose |t| (t, one-sided) lies here or above", ""),
    "log10p_expected": ("-log10 of the share of voxels that reach it: what p would be if nothing had an effect", ""),
    "t_from": ("Lower end of the bin; the first bin holds all below it too", ""),
    "t_to": ("Upper end of the bin; the last bin holds all above it too", ""),
}


@dataclass(frozen=True, eq=False, repr=False)
class PhenotypeScreenResult(CohortResult):
    """Many phenotypes of a cohort, screened.

    Attributes
    ----------
    found : PhenotypeResult
        As `gpuroi.inference.phenotype_test` returned it: elements instead of places.
    design : CohortDesign
        Of the covariates.
    participants : Participants
        Those of the rows of the design, with the others in `excluded`.
    mask : VoxelGrid
        The voxels analysed.
    searched : VoxelGrid
        The mask that was given.
    coverage : Coverage
    map_sha256 : list of str
        Of the file of each map.
    inputs_sha256 : str
    options : ScreenSettings
        As they were asked for.
    facts : list of (str, str)
        What the command prints.
    warnings : list of str
    timings : dict of str to float
        Seconds of each stage.
    counts, inputs
        For `provenance.json`.
    device : str
    like : Image or None
        Whose header the images take their space codes from.
    """

    found: PhenotypeResult = field(repr=False)
    design: CohortDesign = field(repr=False)
    participants: Participants = field(repr=False)
    mask: VoxelGrid
    searched: VoxelGrid = field(repr=False)
    coverage: Coverage = field(repr=False)
    map_sha256: list[str] = field(repr=False)
    inputs_sha256: str = field(repr=False)
    options: ScreenSettings = field(repr=False)
    facts: list[tuple[str, str]] = field(repr=False)
    warnings: list[str] = field(repr=False)
    timings: dict[str, float] = field(repr=False)
    counts: dict[str, Any] = field(repr=False)
    inputs: list[dict[str, Any]] = field(repr=False)
    device: str
    like: Image | None = field(default=None, repr=False)

    roi_means = None  # contrasts alone have these

    @property
    def table(self) -> pd.DataFrame:
        """One row a phenotype, as `phenotypes.tsv` has it."""
        table = self._placed(self.found.table, "max_stat")
        left_out = self.found.n_left_out
        table.insert(3, "voxels", self.mask.n_elements - left_out)
        table.insert(4, "voxels_left_out", left_out)
        return table

    @property
    def top(self) -> pd.DataFrame:
        """The largest statistics of each phenotype, as `top.tsv` has them."""
        return self._placed(self.found.top, "stat")

    @property
    def histogram(self) -> pd.DataFrame:
        """Voxels by t, a column a phenotype, from the first bin that holds any to the last."""
        import pandas as pd

        counts, edges = self.found.histogram, self.found.histogram_edges
        used = np.flatnonzero(counts.any(axis=0))
        some = slice(int(used[0]), int(used[-1]) + 1)
        table = pd.DataFrame(counts[:, some].T, columns=self.found.table["phenotype"])
        table.insert(0, "t_from", edges[:-1][some].round(1), allow_duplicates=True)
        table.insert(1, "t_to", edges[1:][some].round(1), allow_duplicates=True)
        return table

    @property
    def qq(self) -> pd.DataFrame:
        """Observed against expected -log10 p, in steps of t, as `qq.tsv` has it."""
        import pandas as pd

        from gpuroi.backends import get_backend
        from gpuroi.ops.tails import log_p_of_t

        two_sided = self.options.two_sided
        middle = self.found.histogram.shape[1] // 2
        above = np.cumsum(self.found.histogram[:, : middle - 1 : -1], axis=1)[:, ::-1]  # t at or above 0, 0.1, ...
        if two_sided:
            above = above + np.cumsum(self.found.histogram[:, :middle], axis=1)[:, ::-1]
        which, step = np.nonzero(above)
        reaching = above[which, step]
        rows = self.found.table.iloc[which]
        t = self.found.histogram_edges[middle:-1][step].round(1)
        df = rows["df"].to_numpy(np.float64)
        log_p = log_p_of_t(get_backend("cpu"), t, df, "two-sided" if two_sided else "greater")
        voxels = self.mask.n_elements - self.found.n_left_out[which]
        columns = {
            "phenotype": rows["phenotype"].to_numpy(),
            "t": t,
            "voxels_reaching": reaching,
            "log10p": -np.asarray(log_p) / np.log(10) + 0.0,
            "log10p_expected": -np.log10(reaching / voxels) + 0.0,
        }
        return pd.DataFrame(columns)

    @property
    def null(self) -> pd.DataFrame:
        """The largest statistic of each permutation, the identity first: a column a phenotype."""
        import pandas as pd

        return pd.DataFrame(self.found.null, columns=self.found.table["phenotype"])

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        figures: bool = True,
        log: Path | None = None,
    ) -> Path:
        """Write everything into a folder, whole or not at all.

        Parameters
        ----------
        folder : path
            Gets the design, who was used and who was not, the mask and the N map, `phenotypes.tsv`, `top.tsv`,
            `histogram.tsv`, `qq.tsv`, `null.tsv` (with permutations), each with a sidecar, the maps of t that were
            asked for, `report.html` and the records.
        overwrite : bool, default False
            Replace earlier results in this folder.
        figures : bool, default True
            Draw figures. Without matplotlib they are left out, which is said in the log and in `provenance.json`.
        log : Path, optional
            Log of the run, of which a copy is kept.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        OutputError
            If the folder holds results already, holds something else, or cannot be written.
        """
        from gpuroi.report.phenotype_methods import phenotype_methods_text
        from gpuroi.report.phenotype_page import phenotype_page, phenotype_pictures
        from gpuroi.workflows.output import result_folder
        from gpuroi.workflows.screen_save import save_cohort, save_logs

        with result_folder(
            self,
            folder,
            name="Screening of many phenotypes",
            texts={"logs/CITATION.md": lambda: phenotype_methods_text(staged)},
            pictures=lambda _, drawn_in: phenotype_pictures(staged, drawn_in),
            page=lambda _, pictures: phenotype_page(staged, pictures),
            overwrite=overwrite,
            figures=figures,
        ) as staged:
            save_cohort(self, staged)
            self._save_tables(staged)
            self._save_maps(staged)
            save_logs(self, staged, log)
        return Path(folder)

    def _card(self) -> Card:
        strongest = self.table.sort_values("max_stat", key=abs, ascending=False, kind="stable")
        return Card("Screening of many phenotypes", self._facts_and_warnings, strongest, "phenotypes")

    def _placed(self, table: pd.DataFrame, statistic: str) -> pd.DataFrame:
        """Elements as places in mm, and the names that the files have."""
        voxels = np.argwhere(self.mask.mask)[table["element"].to_numpy()]
        places = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        names = {"t": statistic, "p_fwe": "p_FWE", "p_fwe_all": "p_FWE_all"}
        out = table.rename(columns=names).drop(columns="element")
        at = list(out.columns).index(statistic)
        for i, axis in enumerate("XYZ"):
            out.insert(at + 1 + i, axis, places[:, i])
        return out

    def _save_tables(self, folder: Path) -> None:
        from gpuroi.images.write import write_json, write_tsv

        tables = {"phenotypes": self.table, "top": self.top, "histogram": self.histogram, "qq": self.qq}
        if self.found.n_permutations:
            tables["null"] = self.null
        for name, table in tables.items():
            write_tsv(folder / f"{name}.tsv", table)
            described = {column: _described(*_COLUMNS[column]) for column in table.columns if column in _COLUMNS}
            write_json(folder / f"{name}.json", {**self._about(), **described})

    def _save_maps(self, folder: Path) -> None:
        from gpuroi.images.write import save_image

        table = self.found.table
        place = {name: i for i, name in enumerate(table["phenotype"])}
        for name, label in file_labels(list(self.found.maps)).items():
            about = {
                "Description": f"Student's t of {name} beside the covariates. 0 outside the mask, NaN where there is "
                "no statistic",
                "Phenotype": name,
                **self._about(),
                "DegreesOfFreedom": int(table["df"].iloc[place[name]]),
                "NumberOfParticipants": int(table["n"].iloc[place[name]]),
            }
            save_image(
                folder / f"phenotype-{label}_stat-t_statmap.nii.gz",
                self.volume(self.found.maps[name], fill=0),
                self.affine,
                like=self.like,
                dtype=np.float32,
                sidecar=about,
            )

    def _about(self) -> dict[str, Any]:
        """What a reader of one file has to know."""
        n = self.found.n_permutations
        return {
            "Statistic": "t",
            "TwoSided": self.options.two_sided,
            "Covariates": self.design.names,
            "NumberOfPhenotypes": len(self.found.table),
            "NumberOfPermutations": n,
            "SmallestP": 1 / n if n else None,
            "Exhaustive": self.found.settings.get("exhaustive"),
            "Errors": self.options.errors if n else None,
            "Seed": self.options.seed,
            "InputsSHA256": self.inputs_sha256,
        }


def file_labels(names: list[str]) -> dict[str, str]:
    """Return what files call each phenotype: letters and digits alone, and no two the same.

    Examples
    --------
    >>> file_labels(["q_1", "q 1", "brain-age", "?"])
    {'q_1': 'q1', 'q 1': 'q1x2', 'brain-age': 'brainAge', '?': 'phenotype'}
    """
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        words = re.findall(r"[A-Za-z0-9]+", name)
        plain = "".join([*words[:1], *(word[:1].upper() + word[1:] for word in words[1:])]) or "phenotype"
        label, n = plain, 1
        while label.lower() in taken:  # some disks do not tell capitals
            n += 1
            label = f"{plain}x{n}"
        taken.add(label.lower())
        labels[name] = label
    return labels


def _described(text: str, unit: str) -> dict[str, str]:
    return {"Description": text, **({"Units": unit} if unit else {})}
