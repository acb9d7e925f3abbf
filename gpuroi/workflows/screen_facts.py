"""A screening in words: what went in, what was found, and what should be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpuroi.workflows.check_facts import NO_MASK, cohort_facts
from gpuroi.workflows.screen_clusters import ALPHA

if TYPE_CHECKING:
    from gpuroi.cohort.maps import CohortMaps
    from gpuroi.workflows.screen_input import ScreenInput
    from gpuroi.workflows.screen_result import ContrastResult

__all__ = ["contrast_fact", "contrast_warnings", "input_facts", "input_warnings"]


def input_facts(found: ScreenInput, maps: CohortMaps | None = None) -> list[tuple[str, str]]:
    """Return the lines on cohort, grid, missing data, design and contrasts; on coverage if the maps are read."""
    from gpuroi.cohort.design import describe

    settings, design = found.settings, found.design
    facts = cohort_facts(
        found.everybody,
        found.people,
        design,
        describe(design),
        found.grid,
        settings.mask if found.store is None else found.store.path,
        None,
        settings.min_coverage,
    )
    if found.chose_contrasts:
        facts = [
            (name, f"{text}   (none given: one for each term)" if name == "contrasts" else text) for name, text in facts
        ]
    return facts if maps is None else [*facts, ("coverage", maps.coverage.text)]


def input_warnings(found: ScreenInput, maps: CohortMaps | None = None) -> list[str]:
    """Return what can be computed, and should be looked at first; with the maps, also what they lack."""
    from gpuroi.cohort.design import describe

    warnings = [*found.people.notes, *describe(found.design)["warnings"]]
    if found.settings.mask is None and found.store is None:
        warnings.append(NO_MASK)
    holes = maps.coverage.n_holes if maps is not None and found.settings.missing_data == "pattern" else 0
    if holes and found.settings.permutes:
        warnings.append(
            f"{holes} voxels that some maps lack have a parametric p alone: permutations need everybody at every voxel"
        )
    return warnings


def contrast_fact(one: ContrastResult, *, two_sided: bool) -> tuple[str, str]:
    """Return what was found for a contrast."""
    kind, table = one.glm.kind, one.clusters
    values = np.asarray(one.glm.statistic, dtype=np.float64)
    bars = kind in "tv" and two_sided
    values = np.abs(values) if bars else values
    largest = float(np.nanmax(values)) if np.isfinite(values).any() else float("nan")
    said = [f"largest {f'|{kind}|' if bars else kind} {largest:.4g}"]
    if one.permutation is not None:
        smallest = float(np.nanmin(one.permutation.p_fwe))
        said.append(f"smallest voxel FWE p {smallest:.4g}, attainable {one.permutation.smallest_p:.3g}")
        if one.threshold is None and one.permutation.tfce_p_fwe is not None:
            said.append(f"smallest TFCE FWE p {float(np.nanmin(one.permutation.tfce_p_fwe)):.4g}")
    clusters = f"{len(table) or 'no'} cluster{'' if len(table) == 1 else 's'}"
    if one.threshold is None:
        clusters += f" of voxels with {_passed(one)} <= {ALPHA:g}"
    elif len(table) and one.permutation is not None:
        n = int((table["p_size_FWE"] <= ALPHA * (1 + 1e-12)).sum())
        clusters += f", {n} with size FWE p <= {ALPHA:g}"
    return one.name, "; ".join([*said, clusters])


def _passed(one: ContrastResult) -> str:
    """Which p the voxels of the clusters have passed, where no threshold forms them."""
    if one.permutation is None:
        return "FDR p"
    return "voxel FWE p" if one.permutation.tfce_p_fwe is None else "TFCE FWE p"


def contrast_warnings(one: ContrastResult) -> list[str]:
    """Return what limits the results of a contrast."""
    from gpuroi.inference.correct import coarse_p_warning

    fitted, warnings = one.glm, []
    if fitted.n_constant:
        warnings.append(f"{one.name}: {fitted.n_constant} voxels without residual variance have no statistic")
    if fitted.n_not_estimable:
        warnings.append(f"{one.name}: {fitted.n_not_estimable} voxels cannot be estimated with the maps that have them")
    if one.permutation is not None:
        coarse = coarse_p_warning(one.permutation.n_permutations, exhaustive=one.permutation.exhaustive)
        warnings += [f"{one.name}: {coarse}"] if coarse else []
    return warnings
