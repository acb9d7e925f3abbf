"""The methods of a screening in plain words, with references, from the records that it has saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuroi.report.citations import citation

if TYPE_CHECKING:
    import os

__all__ = ["Methods", "methods_text", "sentences"]

_SOFTWARE = ("numpy", "scipy", "numba")
_REARRANGED = {
    "ee": "permutations of the residuals",
    "ise": "sign flips of the residuals",
    "both": "permutations and sign flips of the residuals",
}
_METHODS = {"freedman-lane": "Freedman and Lane", "draper-stoneman": "Draper and Stoneman", "ter-braak": "ter Braak"}
_MISSING = {
    "drop-voxel": "voxels that any map lacks were left out",
    "mean": "values that a map lacks were replaced by the mean of the other maps",
    "pattern": "each voxel was analysed with the maps that have it",
}
_TAILS = {"gpd": "a generalised Pareto distribution fitted to the tail", "gamma": "a gamma distribution fitted to all"}


def methods_text(folder: str | os.PathLike[str]) -> str:
    """Return the methods of a screening as Markdown.

    Parameters
    ----------
    folder : path
        With `design.json`, `provenance.json`, and the sidecars of the maps.

    Returns
    -------
    str
        Sections and a numbered list of references with their DOIs.
    """
    return Methods(Path(folder)).text()


class Methods:
    """The methods of a screening: its records, and the references in the order in which the text first needs them."""

    def __init__(self, folder: Path) -> None:
        self.design = _read(folder / "design.json")
        self.record = _read(folder / "provenance.json")
        self.settings: dict[str, Any] = self.record["settings"]
        self.coverage = _read(folder / "stat-n_statmap.json")
        self.about = [_read(folder / f"contrast-{one['Label']}_clusters.json") for one in self.design["Contrasts"]]
        self.cited: list[str] = []

    def text(self) -> str:
        """Return the methods as Markdown."""
        sections = (
            ("Participants and maps", self._maps()),
            ("Model", self._model()),
            ("Inference", self._inference()),
            ("Software", self._software()),
        )
        body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
        listed = "\n".join(f"{i}. {_reference(key)}" for i, key in enumerate(self.cited, 1))
        return f"# Methods\n\n{body}\n\n## References\n\n{listed}\n"

    def _maps(self) -> str:
        counts, settings = self.record["counts"], self.settings
        said = [f"Maps of {counts['participants']} participants were analysed"]
        if counts["excluded"]:
            were = "was" if counts["excluded"] == 1 else "were"
            said[0] += f"; {counts['excluded']} more {were} excluded because a covariate was missing (excluded.tsv)"
        if settings["fwhm"]:
            said.append(
                f"They were smoothed with a Gaussian kernel of {settings['fwhm']:g} mm full width at half maximum"
            )
        where = "the mask" if settings["mask"] or settings["data"] else "the whole image"
        said.append(
            f"Of {counts['voxels_searched']:,} voxels of {where}, {counts['voxels_analysed']:,} were analysed: those "
            f"that at least {settings['min_coverage']:.0%} of the maps have; {_MISSING[settings['missing_data']]}"
        )
        said.append(f"In detail: {self.coverage['Coverage']}")
        return sentences(said)

    def _model(self) -> str:
        design = self.design
        source = (
            f"`{design['Formula']}`" if design["Formula"] else f"the matrix of {Path(self.settings['design']).name}"
        )
        columns = ", ".join(f"`{name}`" for name in design["Columns"])
        said = [
            f"A general linear model, {source}, was fitted to every voxel by least squares{self._cite('glm')}",
            f"Its regressors are {columns}: rank {design['Rank']}, {design['DegreesOfFreedom']} degrees of freedom",
        ]
        tests = [
            f"{one['Name']} ({self._tested(one, about)})"
            for one, about in zip(design["Contrasts"], self.about, strict=True)
        ]
        said.append(f"Contrasts: {'; '.join(tests)}")
        if self.settings["variance_groups"]:
            column = self.settings["variance_groups"]
            said.append(
                f"Groups of `{column}` have variances of their own: the statistics are Aspin's and Welch's v and G"
            )
        return sentences(said)

    def _tested(self, one: dict[str, Any], about: dict[str, Any]) -> str:
        kind = about["Statistic"]
        side = (
            ("two-sided" if about["TwoSided"] else "one-sided, positive")
            if kind in "tv"
            else f"{len(one['Weights'])} rows"
        )
        return f"{kind}, {side}: `{one['Text']}`"

    def _inference(self) -> str:
        about, settings = self.about[0], self.settings
        n = about["NumberOfPermutations"]
        if not n:
            said = ["p-values are parametric"]
        else:
            said = self._permutations(n)
            said.append(
                "Familywise corrected p-values of voxels come from the distribution of the largest statistic of each "
                f"rearrangement{self._cite('maxima')}"
            )
        said += [*self._clusters(), *self._tfce()]
        if settings["tail"]:
            said.append(f"Small p-values are those of {_TAILS[settings['tail']]} of the maxima{self._cite('tail')}")
        said.append(f"The false discovery rate was controlled after Benjamini and Hochberg{self._cite('fdr')}")
        return sentences(said)

    def _permutations(self, n: int) -> list[str]:
        settings, about = self.settings, self.about[0]
        if settings["permutations"]:
            how = f"{n} rearrangements of the residuals, which were given"
        elif about["Exhaustive"]:
            how = f"all {n} {_REARRANGED[settings['errors']]} that exist"
        else:
            how = f"{n} random {_REARRANGED[settings['errors']]} (seed {about['Seed']})"
        cited = self._cite("glm", *(["freedman-lane"] if settings["method"] == "freedman-lane" else []))
        said = [
            f"p-values come from {how}, by the method of {_METHODS[settings['method']]}{cited}; the unpermuted data "
            f"count as one of them, so that no p-value is below {about['SmallestP']:.3g}{self._cite('identity')}"
        ]
        if self.design["Blocks"] and not settings["permutations"]:
            said.append(f"Exchangeability is restricted: {self.design['Blocks']}{self._cite('blocks')}")
        return said

    def _clusters(self) -> list[str]:
        found = [about for about in self.about if about["ClusterThreshold"] is not None]
        if not found:
            return []
        rules = list(dict.fromkeys(about["Rule"] for about in found))
        said = [f"Clusters are {'; or '.join(rules)}"]
        if self.settings["cluster_p"] is not None:
            said[0] += f"; the threshold is that of an uncorrected p of {self.settings['cluster_p']:g}"
        if found[0]["NumberOfPermutations"]:
            said.append(
                "Their size and mass are corrected by the largest size and the largest mass of any cluster of each "
                "rearrangement, of either sign where the test is two-sided"
            )
        return said

    def _tfce(self) -> list[str]:
        about = self.about[0]
        if "TfceStep" not in about:
            return []
        step = "as the exact integral" if about["TfceStep"] == "exact" else f"in steps of {about['TfceStep']}"
        return [
            f"Threshold-free cluster enhancement{self._cite('tfce')} was computed {step} over the map of "
            f"{about['ClusterScale']} (H = {about['TfceHeightPower']}, E = {about['TfceExtentPower']}, "
            f"{about['TfceConnectivity']} neighbours) and corrected by its maxima in the same rearrangements"
        ]

    def _software(self) -> str:
        record = self.record
        others = [
            f"{name} {record['packages'][name]}{self._cite(name)}" for name in _SOFTWARE if name in record["packages"]
        ]
        return sentences([f"gpuroi {record['gpuroi_version']} on {record['device']}, with {', '.join(others)}"])

    def _cite(self, *keys: str) -> str:
        """Return " [1, 2]"."""
        self.cited += [key for key in keys if key not in self.cited]
        return f" [{', '.join(str(self.cited.index(key) + 1) for key in keys)}]"


def sentences(said: list[str]) -> str:
    """Return statements as sentences."""
    return " ".join(
        f"{text[0].upper()}{text[1:]}." if not text.startswith(("p-", "gpuroi")) else f"{text}." for text in said
    )


def _reference(key: str) -> str:
    text, doi = citation(key)
    return f"{text} https://doi.org/{doi}"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
