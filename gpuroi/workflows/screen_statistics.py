"""The statistics of a screening: the linear model of all contrasts, then the permutations of each."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import get_backend, get_backends
from gpuroi.backends.threads import limited_threads
from gpuroi.inference.permutation_tally import OtherTestError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from gpuroi.cohort.contrasts import Contrast
    from gpuroi.cohort.maps import CohortMaps
    from gpuroi.domains import VoxelGrid
    from gpuroi.inference.glm import GlmResult
    from gpuroi.inference.permutation_settings import PermutationSettings
    from gpuroi.inference.result import PermutationResult, PermutationState
    from gpuroi.workflows.heartbeat import Progress
    from gpuroi.workflows.run_folder import RunFolder
    from gpuroi.workflows.screen_input import ScreenInput

__all__ = ["How", "Statistics"]

_log = logging.getLogger("gpuroi")


@dataclass(frozen=True)
class How:
    """How a screening is run; results do not depend on it.

    Attributes
    ----------
    device : str
        One, or several CUDA devices, which share the permutations: "cuda:0,cuda:1", "all".
    memory_limit : int, str or None
    n_jobs : int or None
    scratch : path or None
        Folder for what does not fit into memory.
    run_folder : RunFolder or None
        Keeps what an interrupted run goes on from.
    progress : callable or None
        Takes a stage, what is done of it, and how much there is.
    client : dask.distributed.Client or None
        Whose workers compute.
    """

    device: str = "auto"
    memory_limit: int | str | None = None
    n_jobs: int | None = None
    scratch: str | os.PathLike[str] | None = None
    run_folder: RunFolder | None = None
    progress: Progress | None = None
    client: Any = None

    @cached_property
    def devices(self) -> list[str]:
        """Names of the devices of this process; raises `DeviceError` where one cannot be used."""
        if self.client is not None:
            return ["cpu"]
        return [backend.device for backend in get_backends(self.device)]

    def told(self, stage: str, unit: str = "permutations") -> Callable[[int, int], None] | None:
        """Return who is told what is done of a stage, and how much there is; None where nobody asks."""
        report = self.progress
        return None if report is None else lambda done, total: report(stage, done, total, unit)

    @property
    def folder(self) -> str | os.PathLike[str]:
        """Where scratch files go."""
        if self.scratch is not None or self.run_folder is None:
            return self.scratch or tempfile.gettempdir()
        return self.run_folder.scratch


class Statistics:
    """Fits and permutes the maps of a cohort.

    Parameters
    ----------
    found : ScreenInput
    maps : CohortMaps
    how : How
    residuals_in_memory : bool
        Else they lie in a scratch file while they are permuted.
    """

    def __init__(self, found: ScreenInput, maps: CohortMaps, how: How, *, residuals_in_memory: bool) -> None:
        self.found, self.maps, self.how, self.residuals_in_memory = found, maps, how, residuals_in_memory
        self.settings, self.design = found.settings, found.design
        self.backend = get_backend(how.devices[0])

    @cached_property
    def domain(self) -> VoxelGrid:
        """The voxels analysed, with the neighbours of clusters."""
        return self.maps.mask.with_connectivity(self.settings.connectivity)

    @cached_property
    def data(self) -> Any:
        """The maps on the device, if it is one, or the source that gives their columns."""
        if isinstance(self.maps.data, np.ndarray) and len(self.how.devices) == 1:
            with self.backend.activate():
                return self.backend.asarray(self.maps.data)
        return self.maps.data

    def fit(self) -> dict[str, GlmResult]:
        """Fit all contrasts; the results are on the host."""
        weights = {one.name: one.weights for one in self.design.contrasts}
        options = {
            "variance_groups": self.found.variance_groups,
            "missing": "pattern" if self.settings.missing_data == "pattern" else "raise",
            "alternative": "two-sided" if self.settings.two_sided else "greater",
        }
        with limited_threads(self.how.n_jobs), self.backend.activate():
            fitted = self._fitted(weights, options)
        return {name: self._on_host(result) for name, result in fitted.items()}

    def _fitted(self, weights: dict[str, Any], options: dict[str, Any]) -> dict[str, GlmResult]:
        from gpuroi.inference.glm import glm

        data = self.backend.asarray(self.data) if isinstance(self.data, np.ndarray) else self.data
        return glm(data, self.design.matrix, weights, **options, device=self.backend.device)

    def threshold(self, contrast: Contrast) -> float | None:
        """Return the cluster-forming threshold of a contrast."""
        rank = int(np.linalg.matrix_rank(np.atleast_2d(contrast.weights)))
        return self.settings.threshold(contrast.kind, rank, float(self.design.basis.df))

    def permute(self, contrast: Contrast) -> PermutationResult | None:
        """Run the permutations of a contrast, from where an interrupted run has come to; None without any."""
        if not self.settings.permutes:
            return None
        run = self.how.run_folder
        state = None if run is None else run.state(contrast.label)
        try:
            return self._permuted(contrast, state)
        except OtherTestError as error:
            assert run is not None  # where the state comes from
            _log.warning("%s begins anew: %s", contrast.name, error.message)
            run.forget(contrast.label)
            return self._permuted(contrast, None)

    def asked(self, contrast: Contrast) -> PermutationSettings:
        """Return what decides the numbers of the permutations of a contrast."""
        from gpuroi.inference.permutation_settings import PermutationSettings

        settings = self.settings
        return PermutationSettings(
            domain=self.domain if settings.finds_clusters or settings.tfce else None,
            n_permutations=max(1, settings.n_permutations),
            errors=settings.errors,
            flips=settings.flips,
            method=settings.method,
            blocks=self.design.blocks,
            whole_blocks=settings.whole_blocks,
            two_sided=settings.two_sided,
            cluster_threshold=self.threshold(contrast),
            cluster_scale=settings.scale,
            cluster_mass=settings.cluster_mass,
            tfce=settings.tfce,
            tfce_step=settings.tfce_step,
            tfce_connectivity=settings.tfce_connectivity if settings.tfce else None,
            permutations=self.found.permutations,
            variance_groups=self.found.variance_groups,
            seed=settings.seed,
        )

    def watched(self, contrast: Contrast, state: PermutationState | None) -> dict[str, Any]:
        """Return who is told of the permutations of a contrast, and what they go on from."""
        run = self.how.run_folder
        return {
            "progress": self.how.told(contrast.name),
            "checkpoint": None if run is None else run.checkpoint(contrast.label),
            "resume": state,
        }

    def _permuted(self, contrast: Contrast, state: PermutationState | None) -> PermutationResult:
        from gpuroi.inference.shares import permutation_shares

        how, asked = self.how, self.asked(contrast)
        scratch = None if self.residuals_in_memory else how.folder
        with (
            limited_threads(how.n_jobs),
            permutation_shares(self.data, self.design.matrix, contrast.weights, asked, how.device, scratch) as shares,
        ):
            if how.progress is not None:
                how.progress(contrast.name, 0 if state is None else state.done, shares.n)
            shares.count_all(**self.watched(contrast, state))
            return shares.result(self.settings.tail)

    def _on_host(self, result: GlmResult) -> GlmResult:
        if self.backend.name == "cpu":
            return result
        names = ("effect", "variance", "statistic", "z", "p", "log10p")
        arrays = {name: self._array(getattr(result, name)) for name in names}
        df = tuple(self._array(one) for one in result.df) if isinstance(result.df, tuple) else self._array(result.df)
        return dataclasses.replace(result, **arrays, df=df)

    def _array(self, value: Any) -> Any:
        return self.backend.to_numpy(value) if self.backend.owns(value) else value
