"""The methods of a screening of many phenotypes in plain words, with references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuroi.report.methods import Methods, sentences
from gpuroi.report.saved_screen import read_json

if TYPE_CHECKING:
    import os

__all__ = ["phenotype_methods_text"]


def phenotype_methods_text(folder: str | os.PathLike[str]) -> str:
    """Return the methods of a screening of phenotypes as Markdown.

    Parameters
    ----------
    folder : path
        With `design.json`, `provenance.json`, `phenotypes.json` and the sidecar of the N map.

    Returns
    -------
    str
        Sections and a numbered list of references with their DOIs.
    """
    return _PhenotypeMethods(Path(folder)).text()


class _PhenotypeMethods(Methods):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.about = [read_json(folder / "phenotypes.json")]

    def _model(self) -> str:
        design, about = self.design, self.about[0]
        columns = ", ".join(f"`{name}`" for name in design["Columns"])
        side = "two-sided" if about["TwoSided"] else "one-sided, positive"
        return sentences(
            [
                f"Each of {about['NumberOfPhenotypes']} phenotypes was tested at every voxel beside the same "
                f"covariates ({columns}) by least squares{self._cite('glm')}",
                f"The statistic is t of the regression coefficient, {side}, from the partial correlation of phenotype "
                "and map",
                "People without a value of a phenotype were left out of its test alone",
            ]
        )

    def _inference(self) -> str:
        n = self.about[0]["NumberOfPermutations"]
        if not n:
            return sentences(["p-values are parametric and not corrected for the number of voxels or of phenotypes"])
        return sentences(
            [
                *self._permutations(n),
                "The same rearrangements served all phenotypes. Familywise corrected p-values over the voxels of a "
                f"phenotype come from its largest statistic in each of them{self._cite('maxima')}; those over voxels "
                "and phenotypes from the largest of all, as normal scores, so that phenotypes of different degrees of "
                "freedom compare",
            ]
        )
