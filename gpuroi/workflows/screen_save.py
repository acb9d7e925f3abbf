"""The folder of a screening: maps with sidecars, tables, records, and the report that is made of them."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.workflows.cohort_input import design_table
from gpuroi.workflows.output import result_folder
from gpuroi.workflows.screen_clusters import CLUSTER_COLUMNS

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from gpuroi.workflows.phenotype_result import PhenotypeScreenResult
    from gpuroi.workflows.screen_result import ContrastResult, ScreenResult

__all__ = ["save_cohort", "save_logs", "save_screen"]

_STATISTICS = {"t": "Student's t", "F": "F", "v": "Aspin's and Welch's v", "G": "Welch's G"}
_CORRECTED = {
    "voxelFWE": "familywise corrected p of each voxel",
    "sizeFWE": "familywise corrected p of the size of the cluster that a voxel is in; 0 outside clusters",
    "massFWE": "familywise corrected p of the mass of the cluster that a voxel is in; 0 outside clusters",
    "tfceFWE": "familywise corrected p of threshold-free cluster enhancement",
    "FDR": "p adjusted for the false discovery rate (Benjamini and Hochberg)",
}


def save_screen(
    result: ScreenResult,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    figures: bool = True,
    log: Path | None = None,
) -> Path:
    """Write a screening into a folder, whole or not at all.

    Parameters
    ----------
    result : ScreenResult
    folder : path
    overwrite, figures
        As in `ScreenResult.save`.
    log : Path, optional
        The log of the run, which is copied.

    Returns
    -------
    Path
        The folder.
    """
    from gpuroi.report.methods import methods_text
    from gpuroi.report.screen_page import screen_page, screen_pictures

    with result_folder(
        result,
        folder,
        name="Screening of a cohort",
        texts={"logs/CITATION.md": lambda: methods_text(staged)},
        pictures=lambda _, drawn_in: screen_pictures(staged, drawn_in),
        page=lambda _, pictures: screen_page(staged, pictures),
        overwrite=overwrite,
        figures=figures,
    ) as staged:
        save_cohort(result, staged)
        for one in result.contrasts.values():
            _save_maps(result, one, staged)
            _save_corrected(result, one, staged)
            _save_clusters(result, one, staged)
        save_logs(result, staged, log)
    return Path(folder)


def save_cohort(result: ScreenResult | PhenotypeScreenResult, folder: Path) -> None:
    """Write who was used, the design, the mask and the map of N: what every screening has."""
    from gpuroi.images.write import save_image, write_json, write_tsv

    people, affine, like = result.participants, result.affine, result.like
    used = people.cells.rename(columns={people.id_column: "participant_id"})
    write_tsv(folder / "participants_used.tsv", used.assign(map_sha256=result.map_sha256))
    write_tsv(folder / "excluded.tsv", people.excluded)
    write_tsv(folder / "design.tsv", design_table(result.design))
    write_json(folder / "design.json", _design_record(result))
    save_image(folder / "mask.nii.gz", result.mask.mask, affine, like=like, dtype=np.uint8)
    counts = result.searched.to_volume(result.coverage.counts)
    about = {"Description": "Maps that have each voxel of the mask that was given", "Coverage": result.coverage.text}
    sidecar = {**about, "NumberOfParticipants": len(people), "InputsSHA256": result.inputs_sha256}
    save_image(folder / "stat-n_statmap.nii.gz", counts, affine, like=like, dtype=np.int32, sidecar=sidecar)
    if result.roi_means is not None:
        write_tsv(folder / "roi_means.tsv", result.roi_means)
        names = result.roi_means.columns[1:]
        text = "Mean of the map over the voxels of {} that were analysed; n/a where there is none"
        write_json(folder / "roi_means.json", {name: {"Description": text.format(name)} for name in names})


def save_logs(result: ScreenResult | PhenotypeScreenResult, folder: Path, log: Path | None) -> None:
    """Write the settings as the file that runs them again, and a copy of the log if there is one."""
    time = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    (folder / "logs").mkdir()
    (folder / "logs" / f"gpuroi_{time}.toml").write_text(result.options.as_toml(), encoding="utf-8", newline="\n")
    if log is not None and log.is_file():
        shutil.copyfile(log, folder / "logs" / f"gpuroi_{time}.log")


def _design_record(result: ScreenResult | PhenotypeScreenResult) -> dict[str, Any]:
    from gpuroi.cohort.design import describe

    design, about = result.design, describe(result.design)
    return {
        "Formula": design.formula or None,
        "Columns": design.names,
        "N": about["n"],
        "Rank": about["rank"],
        "DegreesOfFreedom": about["df"],
        "Condition": about["condition"],
        "Warnings": about["warnings"],
        "Contrasts": [
            {
                "Name": one.name,
                "Label": one.label,
                "Kind": one.kind,
                "Text": one.text,
                "Weights": np.atleast_2d(one.weights),
            }
            for one in design.contrasts
        ],
        "Blocks": _blocks_in_words(result),
    }


def _blocks_in_words(result: ScreenResult | PhenotypeScreenResult) -> str | None:
    blocks, options = result.design.blocks, result.options
    if blocks is None:
        return None
    where = f" of {', '.join(options.blocks)}" if options.blocks else ""
    if blocks.ndim == 2:
        return f"{blocks.shape[1]} nested levels{where}"
    return f"{len(np.unique(blocks))} blocks{where}, exchanged {'as wholes' if options.whole_blocks else 'within'}"


def _save_maps(result: ScreenResult, one: ContrastResult, folder: Path) -> None:
    """Effect, variance, statistic, z, p and TFCE."""
    fitted, statistic = one.glm, _STATISTICS[one.glm.kind]
    side = "two-sided" if _is_two_sided(result, one) else "of the upper tail"
    maps: dict[str, tuple[Any, float, str]] = {
        "effect": (fitted.effect, 0, "Estimate of the contrast; of F, one volume for each of its rows"),
        "variance": (fitted.variance, 0, "Variance of the estimate: the square of its standard error"),
        fitted.kind: (fitted.statistic, 0, statistic),
        "z": (fitted.z, 0, f"Normal score of the same tail area as {statistic}"),
        "p": (fitted.p, 1, f"Uncorrected parametric p, {side}"),
    }
    if one.permutation is not None and one.permutation.tfce is not None:
        text = f"Threshold-free cluster enhancement of {'z' if result.options.scale == 'z' else statistic}, signed"
        maps["tfce"] = (one.permutation.tfce, 0, text)
    for name, (values, outside, text) in maps.items():
        about = f"{text}. {outside} outside the mask, NaN where there is no statistic"
        _save_map(result, one, folder, f"stat-{name}", result.volume(values, fill=outside), about)


def _save_corrected(result: ScreenResult, one: ContrastResult, folder: Path) -> None:
    """-log10 of the corrected p-values that were computed."""
    for name, p in _corrected(one).items():
        with np.errstate(divide="ignore"):
            values = np.where(np.isnan(p), 0.0, -np.log10(p)) + 0.0  # no -0
        about = f"-log10 of the {_CORRECTED[name]}; 0 outside the mask"
        _save_map(result, one, folder, f"stat-logp_desc-{name}", result.volume(values, fill=0), about)


def _corrected(one: ContrastResult) -> dict[str, NDArray[np.float64]]:
    from gpuroi.inference.correct import fdr

    tested = one.permutation
    if tested is None:
        return {"FDR": np.asarray(fdr(one.glm.p))}
    found = {"voxelFWE": tested.p_fwe, "FDR": tested.p_fdr}
    if tested.cluster_labels is not None and tested.cluster_table is not None:
        for name in ("size", "mass"):
            of_clusters = tested.cluster_table[f"p_{name}_fwe"].to_numpy(np.float64)
            found[f"{name}FWE"] = np.append(1.0, of_clusters)[tested.cluster_labels]
    if tested.tfce_p_fwe is not None:
        found["tfceFWE"] = tested.tfce_p_fwe
    return found


def _save_map(
    result: ScreenResult, one: ContrastResult, folder: Path, name: str, volume: NDArray[Any], about: str
) -> None:
    from gpuroi.images.write import save_image

    save_image(
        folder / f"contrast-{one.label}_{name}_statmap.nii.gz",
        volume[0] if volume.ndim == 4 and len(volume) == 1 and one.contrast.kind == "t" else volume,
        result.affine,
        like=result.like,
        dtype=np.float32,
        sidecar={"Description": about, **_sidecar(result, one)},
    )


def _save_clusters(result: ScreenResult, one: ContrastResult, folder: Path) -> None:
    import pandas as pd

    from gpuroi.images.write import save_image, write_json, write_tsv

    stem = f"contrast-{one.label}"
    write_tsv(folder / f"{stem}_clusters.tsv", one.clusters)
    columns = {name: _column(*CLUSTER_COLUMNS[name]) for name in one.clusters.columns}
    write_json(folder / f"{stem}_clusters.json", {"Rule": one.rule, **_sidecar(result, one), **columns})
    save_image(folder / f"{stem}_desc-clusters_dseg.nii.gz", one.labels, result.affine, like=result.like)
    numbers = one.clusters["Cluster ID"]
    names = pd.DataFrame({"index": numbers, "name": [f"cluster-{number}" for number in numbers]})
    write_tsv(folder / f"{stem}_desc-clusters_dseg.tsv", names)
    write_tsv(folder / f"{stem}_desc-clusters_means.tsv", one.cluster_means)
    if one.permutation is not None:
        write_tsv(folder / f"{stem}_null.tsv", pd.DataFrame(one.permutation.null))


def _column(text: str, unit: str) -> dict[str, str]:
    return {"Description": text, **({"Units": unit} if unit else {})}


def _sidecar(result: ScreenResult, one: ContrastResult) -> dict[str, Any]:
    """What a reader of one image has to know."""
    options, tested = result.options, one.permutation
    known: dict[str, Any] = {
        "Contrast": f"{one.name} = {one.contrast.text}" if one.name != one.contrast.text else one.name,
        "Statistic": one.glm.kind,
        "TwoSided": _is_two_sided(result, one),
        "DegreesOfFreedom": _degrees(one.glm.df),
        "NumberOfParticipants": len(result.participants),
        "NumberOfPermutations": 0 if tested is None else tested.n_permutations,
        "Exhaustive": None if tested is None else tested.exhaustive,
        "SmallestP": None if tested is None else tested.smallest_p,
        "Errors": None if tested is None else options.errors,
        "Seed": options.seed,
        "Connectivity": options.connectivity,
        "ClusterThreshold": one.threshold,
        "ClusterScale": options.scale,
        "InputsSHA256": result.inputs_sha256,
    }
    if options.tfce:
        asked = options.tfce_connectivity
        known |= {
            "TfceConnectivity": options.connectivity if asked is None else asked,
            "TfceStep": options.tfce_step,
            "TfceHeightPower": 2,
            "TfceExtentPower": 0.5,
        }
    return known


def _is_two_sided(result: ScreenResult, one: ContrastResult) -> bool:
    return result.options.two_sided and one.glm.kind in ("t", "v")


def _degrees(df: Any) -> Any:
    """A number; where it differs between voxels, the least and the largest; of F those of both parts."""
    if isinstance(df, tuple):
        return [_degrees(part) for part in df]
    values = np.asarray(df, dtype=np.float64)
    return float(values) if values.ndim == 0 else {"Least": np.nanmin(values), "Largest": np.nanmax(values)}
