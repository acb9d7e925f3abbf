"""What `screen` found, and the folder that it is saved to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import Card
from gpuroi.errors import UsageError
from gpuroi.workflows.cohort_result import CohortResult
from gpuroi.workflows.notebook import ShownMap, draw_regions

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.cohort.contrasts import Contrast
    from gpuroi.cohort.design import CohortDesign
    from gpuroi.cohort.missing import Coverage
    from gpuroi.cohort.participants import Participants
    from gpuroi.domains import VoxelGrid
    from gpuroi.images.read import Image
    from gpuroi.inference.glm import GlmResult
    from gpuroi.inference.result import PermutationResult
    from gpuroi.workflows.screen_settings import ScreenSettings

__all__ = ["ContrastResult", "ScreenResult"]


@dataclass(frozen=True, eq=False)
class ContrastResult:
    """One contrast of a cohort.

    Attributes
    ----------
    name, label : str
        As it was given, and as files have it.
    contrast : Contrast
    glm : GlmResult
        Effect, variance, statistic, df, z, p and log10 p of the voxels analysed, NumPy.
    permutation : PermutationResult or None
        None where there were no permutations.
    threshold : float or None
        Cluster-forming, on the scale of the clusters.
    clusters : DataFrame
        As `contrast-<label>_clusters.tsv` has it.
    rule : str
        What makes a cluster, in words.
    labels : int32 array, shape (X, Y, Z)
        Ids of the clusters, 0 outside.
    cluster_means : DataFrame
        `participant_id`, `cluster-1`, `cluster-2`, ...: the mean of each map over each cluster.
    """

    name: str
    label: str
    contrast: Contrast = field(repr=False)
    glm: GlmResult = field(repr=False)
    permutation: PermutationResult | None = field(repr=False)
    threshold: float | None
    clusters: pd.DataFrame = field(repr=False)
    rule: str
    labels: NDArray[np.int32] = field(repr=False)
    cluster_means: pd.DataFrame = field(repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class ScreenResult(CohortResult):
    """A cohort, screened.

    Attributes
    ----------
    contrasts : dict of str to ContrastResult
        By name, in the order that they were given.
    design : CohortDesign
    participants : Participants
        Those of the rows of the design, with the others in `excluded`.
    mask : VoxelGrid
        The voxels analysed.
    searched : VoxelGrid
        The mask that was given.
    coverage : Coverage
        What became of voxels that some maps lack.
    roi_means : DataFrame or None
        `participant_id` and a column for each label of the atlas, NaN where none of its voxels was analysed.
    map_sha256 : list of str
        Of the file of each map.
    inputs_sha256 : str
        Of these and of all other files that the results depend on.
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
        Where it was computed.
    like : Image or None
        Whose header the images take their space codes from.
    """

    contrasts: dict[str, ContrastResult]
    design: CohortDesign = field(repr=False)
    participants: Participants = field(repr=False)
    mask: VoxelGrid
    searched: VoxelGrid = field(repr=False)
    coverage: Coverage = field(repr=False)
    roi_means: pd.DataFrame | None = field(repr=False)
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
            Gets the design, who was used and who was not, the mask and the N map, maps with sidecars, clusters and null
            distributions of every contrast, ROI means, `report.html` and the records.
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
        from gpuroi.workflows.screen_save import save_screen

        return save_screen(self, folder, overwrite=overwrite, figures=figures, log=log)

    def plot_glass_brain(self, contrast: str | None = None, **options: Any) -> Any:
        """Draw the statistic of a contrast through the whole brain, with nilearn.

        Where clusters have a familywise p of 0.05 or less, it is drawn in these; else everywhere.

        Parameters
        ----------
        contrast : str, optional
            Its name; default the first.
        **options
            For `nilearn.plotting.plot_glass_brain`: `display_mode`, `threshold`, `output_file`, ...

        Returns
        -------
        nilearn display

        Raises
        ------
        UsageError
            If there is no such contrast.
        OutputError
            If nilearn or matplotlib is not installed.
        """
        return self._shown_map(contrast).plot_glass_brain(**options)

    def view(self, contrast: str | None = None) -> Any:
        """Show the same map in slices and in three dimensions, in a notebook, with niivue.

        Returns
        -------
        ipyniivue.NiiVue

        Raises
        ------
        UsageError
            If there is no such contrast.
        OutputError
            If ipyniivue is not installed.
        """
        return self._shown_map(contrast).view()

    def _shown_map(self, contrast: str | None) -> ShownMap:
        name = next(iter(self.contrasts)) if contrast is None else contrast
        if name not in self.contrasts:
            raise UsageError(f"no contrast is called {name!r}", f"contrasts: {', '.join(self.contrasts)}")
        one = self.contrasts[name]
        statistic, found = self.volume(one.glm.statistic), _found(one)
        kind = one.contrast.kind
        if found.any():
            return ShownMap(np.where(found, statistic, 0), self.affine, f"{kind} of {name}, in its clusters")
        return ShownMap(statistic, self.affine, f"{kind} of {name}: no cluster was found")

    def _card(self) -> Card:
        one = next((one for one in self.contrasts.values() if _found(one).any()), None)
        if one is None:
            return Card("Screening of a cohort", self._facts_and_warnings)
        inside = np.asarray(self.mask.mask)
        return Card(
            f"Screening of a cohort; clusters of {one.name}",
            self._facts_and_warnings,
            one.clusters.drop(columns="Labels (%)", errors="ignore"),
            f"clusters of {one.name}",
            lambda path: draw_regions(np.where(_found(one), one.labels, 0), inside, self.affine, path),
            f"Cuts through the mask with the clusters of {one.name} in colour, numbered.",
        )


def _found(one: ContrastResult) -> NDArray[np.bool_]:
    """Return where clusters lie that have a familywise p of 0.05 or less; all of them where none has a p."""
    p = one.clusters.filter(regex="^p_.*_FWE$")
    kept = p.min(axis=1) <= 0.05 if p.notna().any(axis=None) else np.ones(len(p), np.bool_)
    ids = one.clusters.loc[kept, "Cluster ID"].astype(np.int64)
    found: NDArray[np.bool_] = np.isin(one.labels, ids)
    return found
