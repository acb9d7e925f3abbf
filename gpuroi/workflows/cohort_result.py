"""What the results of all screenings have: the cohort, the voxels, the record, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import HasCard
from gpuroi.workflows.provenance import provenance_of

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from gpuroi.cohort.missing import Coverage
    from gpuroi.domains import VoxelGrid
    from gpuroi.workflows.screen_settings import ScreenSettings

__all__ = ["CohortResult"]


class CohortResult(HasCard):
    """A screening of a cohort, whatever was tested; the attributes are described by those who have them."""

    options: ScreenSettings
    mask: VoxelGrid
    searched: VoxelGrid
    coverage: Coverage
    facts: list[tuple[str, str]]
    warnings: list[str]

    def __repr__(self) -> str:
        """What the command prints, for whoever types the name of a result."""
        return f"{type(self).__name__}\n{self.text}"

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, with the defaults filled in, as records have them."""
        return self.options.as_json()

    @property
    def n_per_element(self) -> NDArray[np.int64]:
        """Maps that have each voxel analysed; int64, shape (v,)."""
        return self.coverage.n_per_element

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to mm."""
        return np.asarray(self.searched.affine)

    @property
    def text(self) -> str:
        """The facts and the warnings, one a line."""
        width = max((len(name) for name, _ in self.facts), default=0)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self._facts_and_warnings)

    def volume(self, values: NDArray[Any], fill: float = np.nan) -> NDArray[Any]:
        """Return values of the voxels analysed, (..., v), as volumes, (..., X, Y, Z), with `fill` elsewhere."""
        return np.asarray(self.mask.to_volume(np.asarray(values), fill=fill))

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        figures: bool = True,
        log: Path | None = None,
    ) -> Path:
        """Write everything into a folder, whole or not at all."""
        raise NotImplementedError

    def report(self) -> str:
        """Return the report: one HTML page that needs no network and no other file."""
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as room:
            return (self.save(Path(room) / "saved") / "report.html").read_text(encoding="utf-8")

    def provenance(self, notes: list[str] | None = None) -> dict[str, Any]:
        """Return the record of this run, as `provenance.json` holds it."""
        return provenance_of(self, "screen", [*self.warnings, *(notes or [])])

    @property
    def _facts_and_warnings(self) -> list[tuple[str, str]]:
        return [*self.facts, *(("warning", warning) for warning in self.warnings)]
