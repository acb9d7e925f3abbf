"""The statistics of a screening on the workers of a Dask cluster, which read the maps themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuroi.workflows.screen_statistics import Statistics

if TYPE_CHECKING:
    from gpuroi.cohort.contrasts import Contrast
    from gpuroi.cohort.maps import CohortMaps
    from gpuroi.inference.glm import GlmResult
    from gpuroi.inference.result import PermutationResult, PermutationState
    from gpuroi.workflows.screen_input import ScreenInput
    from gpuroi.workflows.screen_statistics import How

__all__ = ["DaskStatistics", "maps_for_workers"]

_ON_DISK = 1  # byte of memory for the maps: workers get the columns of a store


class DaskStatistics(Statistics):
    """Fits and permutes on workers; their `device` is that of `how`.

    Parameters
    ----------
    found : ScreenInput
    maps : CohortMaps
        From `maps_for_workers`.
    how : How
        With a client.
    """

    def __init__(self, found: ScreenInput, maps: CohortMaps, how: How) -> None:
        super().__init__(found, maps, how, residuals_in_memory=False)

    def _fitted(self, weights: dict[str, Any], options: dict[str, Any]) -> dict[str, GlmResult]:
        from gpuroi.distributed.fitting import glm_on

        return glm_on(
            self.how.client,
            self.maps.data,
            self.design.matrix,
            weights,
            **options,
            device=self.how.device,
            progress=self.how.told("linear model", "voxels"),
        )

    def _permuted(self, contrast: Contrast, state: PermutationState | None) -> PermutationResult:
        from gpuroi.distributed.permutations import permutation_test_on

        return permutation_test_on(
            self.how.client,
            self.maps.data,
            self.design.matrix,
            contrast.weights,
            self.asked(contrast),
            tail=self.settings.tail,
            device=self.how.device,
            **self.watched(contrast, state),
        )


def maps_for_workers(found: ScreenInput, how: How) -> CohortMaps:
    """Return maps that lie in a store; those of a table are packed by the workers first, into the scratch folder.

    Raises
    ------
    DataError
        Damaged files; no voxel left.
    OutputError
        A scratch folder that cannot be written.
    """
    from dataclasses import replace

    from gpuroi.distributed.packing import pack_on

    if found.store is None:
        store = pack_on(
            how.client,
            found.people,
            found.grid,
            Path(how.folder).resolve() / "maps.zarr",
            smoothing_fwhm_mm=found.settings.fwhm,
            overwrite=True,
        )
        found = replace(found, store=store)
    return found.read_maps(_ON_DISK, how.folder)
