"""From a table of participants to a corrected, reported result."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuroi.backends.threads import limited_threads
from gpuroi.cohort.file_hashes import unchanged_files
from gpuroi.errors import UsageError
from gpuroi.workflows.screen_clusters import ContrastClusters, find_clusters, region_means
from gpuroi.workflows.screen_dask import DaskStatistics, maps_for_workers
from gpuroi.workflows.screen_facts import contrast_fact, contrast_warnings, input_facts, input_warnings
from gpuroi.workflows.screen_input import HashedInputs, ScreenInput, hash_inputs, read_screen_input
from gpuroi.workflows.screen_result import ContrastResult, ScreenResult
from gpuroi.workflows.screen_settings import ScreenSettings
from gpuroi.workflows.screen_statistics import How, Statistics
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.cohort.exclusions import Missing
    from gpuroi.cohort.maps import CohortMaps
    from gpuroi.cohort.missing import MissingRule
    from gpuroi.images.atlas_labels import Atlas
    from gpuroi.workflows.heartbeat import Progress
    from gpuroi.workflows.run_folder import RunFolder
    from gpuroi.workflows.screen_phenotypes import PhenotypeScreenResult

__all__ = ["screen"]


def screen(
    participants: str | os.PathLike[str],
    formula: str | None = None,
    contrasts: Sequence[str] = (),
    *,
    mask: Any = None,
    data: str | os.PathLike[str] | None = None,
    design: str | os.PathLike[str] | None = None,
    con: str | os.PathLike[str] | None = None,
    fts: str | os.PathLike[str] | None = None,
    grp: str | os.PathLike[str] | None = None,
    blocks: Sequence[str] = (),
    whole_blocks: bool = False,
    join: Sequence[str | os.PathLike[str]] = (),
    map_column: str | None = "map",
    map_template: str | None = None,
    id_column: str = "participant_id",
    missing: Missing = "drop-subject",
    missing_data: MissingRule = "drop-voxel",
    min_coverage: float = 0.9,
    zero_is_missing: bool = False,
    fwhm: float | None = None,
    n_permutations: int = 5000,
    errors: Literal["ee", "ise", "both"] = "ee",
    flips: Literal["random", "group"] = "random",
    method: str = "freedman-lane",
    permutations: Any = None,
    variance_groups: str | None = None,
    two_sided: bool = True,
    cluster_p: float | None = None,
    cluster_threshold: float | None = None,
    cluster_scale: str = "t",
    cluster_mass: str = "sum",
    connectivity: int = 6,
    tfce: bool = False,
    tfce_step: float | str = "exact",
    tfce_connectivity: int | None = None,
    tail: str | None = None,
    seed: int = 0,
    atlas: Any = None,
    atlas_names: Any = None,
    phenotypes: Sequence[str] = (),
    phenotype_maps: Sequence[str] = (),
    top: int = 100,
    device: str = "auto",
    memory_limit: int | str | None = None,
    n_jobs: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    run_folder: RunFolder | None = None,
    progress: Progress | None = None,
    dask: Any = None,
) -> ScreenResult | PhenotypeScreenResult:
    """Screen a cohort: test contrasts of a design at every voxel of everybody's map, corrected by permutations.

    Parameters
    ----------
    participants : path
        TSV or CSV, one row a person.
    formula : str, optional
        `map ~ group + age`, as `gpuroi.cohort.design_of` takes it.
    contrasts : str or sequence of str
        As `gpuroi.cohort.parse_contrast` takes them. Without any, one for each term of the formula.
    mask : path or image, optional
        Non-zero inside, on the grid of the maps. None: the whole grid of the first map.
    data : path, optional
        A store that `pack` made, in place of the maps of the table.
    design, con, fts, grp : path, optional
        FSL `.mat` or CSV with a header in place of the formula; its contrasts, F tests and exchangeability blocks.
    blocks : str or sequence of str
        Columns with exchangeability blocks, from the outermost to the innermost.
    whole_blocks : bool, default False
        Exchange the blocks as wholes instead of within them.
    join : sequence of path
        Further tables, joined by id.
    map_column, map_template, id_column
        As in `gpuroi.cohort.read_participants`.
    missing : {"drop-subject", "error"}, default "drop-subject"
        What happens to people without a value in a column that is used.
    missing_data, min_coverage, zero_is_missing
        What happens to voxels that some maps lack, as in `gpuroi.cohort.read_maps`.
    fwhm : float, optional
        Smooth each map by this many mm.
    n_permutations : int, default 5000
        0: parametric p-values alone.
    errors, flips, method, permutations, cluster_mass, tfce_step, tfce_connectivity, tail, seed
        As in `gpuroi.inference.permutation_test`; `permutations` may be a CSV as PALM's permidx.
    variance_groups : str, optional
        Column with groups of people whose variances may differ.
    two_sided : bool, default True
        False: large positive values of t alone count.
    cluster_p : float, optional
        Cluster-forming p of a voxel, two-sided unless `two_sided` is False.
    cluster_threshold : float, optional
        The threshold itself, on the scale of `cluster_scale`.
    cluster_scale : {"t", "z"}
    connectivity : {6, 18, 26}, default 6
        Neighbours of a voxel.
    tfce : bool, default False
    atlas, atlas_names : path, optional
        Label image on the grid of the maps, and the names of its labels if they are not beside it.
    phenotypes, phenotype_maps, top
        Screen many columns instead of contrasts: see `gpuroi.workflows.screen_phenotypes`.
    device : {"auto", "cpu", "cuda", "cuda:N", "cuda:0,cuda:1", "all"}
        Several CUDA devices share the permutations.
    memory_limit : int or str, optional
        Bytes, as 400MB or 8GB. Results do not depend on it.
    n_jobs : int, optional
        Threads; by default all.
    scratch : path, optional
        Folder for what does not fit into memory.
    run_folder : RunFolder, optional
        Keeps what an interrupted run goes on from.
    progress : callable, optional
        Called with a stage, what is done of it, and how much there is.
    dask : str or dask.distributed.Client, optional
        Compute on the workers of a Dask cluster, as `gpuroi.distributed.dask_client` takes it: "tcp://host:8786",
        "local:4", "slurm:config.toml", "cuda". Table, maps and scratch folder must lie where all of them find them.

    Returns
    -------
    ScreenResult
        `PhenotypeScreenResult` with phenotypes.

    Raises
    ------
    BadInputsError
        Everything that is wrong with table, maps, covariates and contrasts, in one error.
    DataError, GridError, UsageError, DeviceError

    Notes
    -----
    Results depend on the inputs and on the arguments up to `top`, not on memory, threads, workers or
    interruptions. On a CUDA device values agree to rounding, also where residuals go to disk there; p-values and labels
    are equal.

    References
    ----------
    .. [1] Winkler AM et al. (2014). Permutation inference for the general linear model. NeuroImage 92, 381-397.
       doi:10.1016/j.neuroimage.2014.01.060

    Examples
    --------
    >>> import tempfile
    >>> from gpuroi.demo_data import demo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = demo(f"{folder}/demo", n_subjects=8)
    ...     table, mask = f"{folder}/demo/participants.tsv", f"{folder}/demo/mask.nii.gz"
    ...     result = screen(table, formula="map ~ group", mask=mask, n_permutations=0, device="cpu")
    >>> list(result.contrasts), result.contrasts["group"].glm.df
    (['group'], 6.0)
    """
    settings = ScreenSettings.of(locals())
    how = How(device, memory_limit, n_jobs, scratch, run_folder, progress)
    if dask is None:
        return _screened(settings, how)
    from gpuroi.distributed.client import dask_client

    if phenotypes:
        raise UsageError("phenotypes on Dask workers", "one machine does them all in one product: leave out dask")
    with dask_client(dask) as client:
        return _screened(settings, replace(how, client=client))


def _screened(settings: ScreenSettings, how: How) -> ScreenResult | PhenotypeScreenResult:
    watch = Stopwatch()
    device_name = _device_name(how)  # refuses one that is not there, before any work
    with unchanged_files([Path(one) for one in settings.files if isinstance(one, str | os.PathLike)]):
        found = read_screen_input(settings, watch)
        with watch("plan"):
            plan = None if found.phenotypes is not None or how.client is not None else found.plan(how)
        hashed, maps = _read(found, how, how.memory_limit if plan is None else plan.maps_limit, watch)
    if found.phenotypes is not None:
        return _phenotypes(found, hashed, maps, how, watch)
    if plan is None:
        statistics: Statistics = DaskStatistics(found, maps, how)
    else:
        statistics = Statistics(found, maps, how, residuals_in_memory=plan.residuals_in_memory)
    contrast_results, roi_means = _contrasts(statistics, watch)
    every = list(contrast_results.values())
    told = (contrast_fact(one, two_sided=settings.two_sided) for one in every)
    facts = [("device", device_name), *input_facts(found, maps), *told]
    return ScreenResult(
        contrasts=contrast_results,
        design=found.design,
        participants=found.people,
        mask=maps.mask,
        searched=found.grid,
        coverage=maps.coverage,
        roi_means=roi_means,
        map_sha256=hashed.maps,
        inputs_sha256=hashed.digest,
        options=settings,
        facts=facts,
        warnings=[*input_warnings(found, maps), *(text for one in every for text in contrast_warnings(one))],
        timings=dict(watch.seconds),
        counts={
            "participants": len(found.people),
            "excluded": len(found.people.excluded),
            "voxels_searched": found.grid.n_elements,
            "voxels_analysed": maps.mask.n_elements,
            "clusters": {one.name: len(one.clusters) for one in every},
        },
        inputs=hashed.files,
        device=device_name,
        like=maps.like,
    )


def _read(
    found: ScreenInput, how: How, memory_limit: int | str | None, watch: Stopwatch
) -> tuple[HashedInputs, CohortMaps]:
    """Hash all files and read the maps: the same bytes, or an error."""
    with unchanged_files(found.map_files), limited_threads(how.n_jobs):
        with watch("hash"):
            hashed = hash_inputs(found, how.told("hashing", "maps"))
        with watch("maps"):
            if how.client is not None:
                return hashed, maps_for_workers(found, how)
            return hashed, found.read_maps(memory_limit, how.folder, how.told("reading", "maps"))


def _device_name(how: How) -> str:
    if how.client is None:
        return ", ".join(how.devices)
    n_workers = len(how.client.scheduler_info(n_workers=-1)["workers"])
    return f"{n_workers} Dask worker{'' if n_workers == 1 else 's'}"


def _contrasts(statistics: Statistics, watch: Stopwatch) -> tuple[dict[str, ContrastResult], pd.DataFrame | None]:
    """Return the results of every contrast, and the means over the atlas."""
    found, maps, contrasts = statistics.found, statistics.maps, statistics.design.contrasts
    with watch("glm"):
        fitted = statistics.fit()
    with watch("permutations"):
        permuted = {one.name: statistics.permute(one) for one in contrasts}
    thresholds = {one.name: statistics.threshold(one) for one in contrasts}
    with watch("clusters"):
        clusters = {
            one.name: find_clusters(
                fitted[one.name],
                permuted[one.name],
                thresholds[one.name],
                statistics.domain,
                found.settings,
                atlas=found.atlas,
            )
            for one in contrasts
        }
    with watch("means"):
        cluster_means, roi_means = _means(maps, clusters, found.atlas)
    results = {
        one.name: ContrastResult(
            one.name,
            one.label,
            one,
            fitted[one.name],
            permuted[one.name],
            thresholds[one.name],
            clusters[one.name].table,
            clusters[one.name].rule,
            maps.mask.to_volume(clusters[one.name].labels),
            cluster_means[one.name],
        )
        for one in contrasts
    }
    return results, roi_means


def _means(
    maps: CohortMaps, clusters: dict[str, ContrastClusters], atlas: Atlas | None
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame | None]:
    """Average every map over the clusters of every contrast, and over the regions of the atlas."""
    from gpuroi.images.extract_signals import column_names, label_ids

    label_sets = {f"contrast {name}": (one.labels, len(one.table)) for name, one in clusters.items()}
    regions: list[str] = []
    if atlas is not None:
        ids = np.asarray(label_ids(atlas))
        regions = column_names(ids.tolist(), atlas.names, ["mean"])
        label_sets["atlas"] = (_columns_of(maps.mask.from_volume(atlas.labels), ids), len(ids))
    means = region_means(maps.data, label_sets)
    of_clusters = {}
    for name, one in clusters.items():
        columns = [f"cluster-{number}" for number in one.table["Cluster ID"]]
        of_clusters[name] = _with_ids(maps.ids, columns, means[f"contrast {name}"])
    return of_clusters, None if atlas is None else _with_ids(maps.ids, regions, means["atlas"])


def _columns_of(labels: NDArray[np.int32], ids: NDArray[np.int64]) -> NDArray[np.int32]:
    """Column of the label of each voxel, from 1; 0 outside."""
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids[order], labels), len(ids) - 1)
    return np.where(ids[order][place] == labels, order[place] + 1, 0).astype(np.int32)


def _with_ids(ids: list[str], columns: list[str], values: NDArray[np.float64]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(values, columns=columns)
    table.insert(0, "participant_id", ids, allow_duplicates=True)
    return table


def _phenotypes(
    found: ScreenInput, hashed: HashedInputs, maps: CohortMaps, how: How, watch: Stopwatch
) -> PhenotypeScreenResult:
    from gpuroi.workflows.screen_phenotypes import screen_phenotypes

    assert found.phenotypes is not None  # the caller has asked
    settings = found.settings
    return screen_phenotypes(
        found.people,
        found.design,
        maps,
        phenotypes=found.phenotypes,
        top=settings.top,
        n_permutations=settings.n_permutations,
        errors=settings.errors,
        whole_blocks=settings.whole_blocks,
        two_sided=settings.two_sided,
        seed=settings.seed,
        device=how.devices[0],
        n_jobs=how.n_jobs,
        scratch=None if isinstance(maps.data, np.ndarray) else how.folder,
        progress=how.told("phenotypes", "products"),
        facts=input_facts(found, maps),
        warnings=input_warnings(found, maps),
        options=settings,
        searched=found.grid,
        inputs=hashed.files,
        map_sha256=hashed.maps,
        inputs_sha256=hashed.digest,
        watch=watch,
    )
