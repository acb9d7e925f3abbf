"""`gpuroi screen`: from a table of participants to a corrected, reported result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from gpuroi.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from gpuroi.workflows.screen_result import ScreenResult

__all__ = ["screen"]

_MANY = Parameter(consume_multiple=True)
_WHO, _TEST, _CLUSTERS, _SHOW, _RUN = (
    Group(title, sort_key=order)
    for order, title in enumerate(
        ("Who and what", "Test", "Clusters and TFCE", "Regions and phenotypes", "How it runs"), start=1
    )
)


def screen(
    participants: Annotated[Path, Parameter(group=_WHO)],
    *,
    formula: Annotated[str | None, Parameter(group=_WHO)] = None,
    contrast: Annotated[list[str] | None, Parameter(group=_WHO, allow_leading_hyphen=True)] = None,
    mask: Annotated[Path | None, Parameter(group=_WHO)] = None,
    out: Annotated[Path | None, Parameter(group=_WHO)] = None,
    data: Annotated[Path | None, Parameter(group=_WHO)] = None,
    fwhm: Annotated[float | None, Parameter(group=_WHO)] = None,
    missing: Annotated[Literal["drop-subject", "error"], Parameter(group=_WHO)] = "drop-subject",
    missing_data: Annotated[Literal["drop-voxel", "mean", "pattern"], Parameter(group=_WHO)] = "drop-voxel",
    min_coverage: Annotated[float, Parameter(group=_WHO)] = 0.9,
    zero_is_missing: Annotated[bool, Parameter(group=_WHO)] = False,
    join: Annotated[list[Path] | None, _MANY, Parameter(group=_WHO)] = None,
    map_column: Annotated[str, Parameter(group=_WHO)] = "map",
    map_template: Annotated[str | None, Parameter(group=_WHO)] = None,
    id_column: Annotated[str, Parameter(group=_WHO)] = "participant_id",
    design: Annotated[Path | None, Parameter(group=_WHO)] = None,
    con: Annotated[Path | None, Parameter(group=_WHO)] = None,
    fts: Annotated[Path | None, Parameter(group=_WHO)] = None,
    grp: Annotated[Path | None, Parameter(group=_WHO)] = None,
    n_permutations: Annotated[int, Parameter(name=("--n-perm", "--n-permutations"), group=_TEST)] = 5000,
    two_sided: Annotated[bool, Parameter(negative="--one-sided", group=_TEST)] = True,
    errors: Annotated[Literal["ee", "ise", "both"], Parameter(group=_TEST)] = "ee",
    flips: Annotated[Literal["random", "group"], Parameter(group=_TEST)] = "random",
    method: Annotated[
        Literal["freedman-lane", "draper-stoneman", "ter-braak"], Parameter(group=_TEST)
    ] = "freedman-lane",
    blocks: Annotated[list[str] | None, _MANY, Parameter(group=_TEST)] = None,
    whole_blocks: Annotated[bool, Parameter(group=_TEST)] = False,
    variance_groups: Annotated[str | None, Parameter(group=_TEST)] = None,
    permutations: Annotated[Path | None, Parameter(group=_TEST)] = None,
    tail: Annotated[Literal["gpd", "gamma"] | None, Parameter(group=_TEST)] = None,
    seed: Annotated[int, Parameter(group=_TEST)] = 0,
    cluster_p: Annotated[float | None, Parameter(group=_CLUSTERS)] = None,
    cluster_threshold: Annotated[float | None, Parameter(group=_CLUSTERS)] = None,
    cluster_scale: Annotated[Literal["t", "z"], Parameter(group=_CLUSTERS)] = "t",
    cluster_mass: Annotated[Literal["sum", "excess"], Parameter(group=_CLUSTERS)] = "sum",
    connectivity: Annotated[Literal[6, 18, 26], Parameter(group=_CLUSTERS)] = 6,
    tfce: Annotated[bool, Parameter(group=_CLUSTERS)] = False,
    tfce_step: Annotated[float | str, Parameter(group=_CLUSTERS)] = "exact",
    tfce_connectivity: Annotated[Literal[6, 18, 26] | None, Parameter(group=_CLUSTERS)] = None,
    atlas: Annotated[Path | None, Parameter(group=_SHOW)] = None,
    atlas_names: Annotated[Path | None, Parameter(group=_SHOW)] = None,
    phenotypes: Annotated[list[str] | None, _MANY, Parameter(group=_SHOW)] = None,
    phenotype_maps: Annotated[list[str] | None, _MANY, Parameter(group=_SHOW)] = None,
    top: Annotated[int, Parameter(group=_SHOW)] = 100,
    figures: Annotated[bool, Parameter(negative="--no-figures", group=_SHOW)] = True,
    device: Annotated[str, Parameter(name=("--device", "--devices"), group=_RUN)] = "auto",
    memory_limit: Annotated[str | None, Parameter(group=_RUN)] = None,
    scratch: Annotated[Path | None, Parameter(group=_RUN)] = None,
    n_jobs: Annotated[int | None, Parameter(group=_RUN)] = None,
    dask: Annotated[str | None, Parameter(group=_RUN)] = None,
    dry_run: Annotated[bool, Parameter(group=_RUN)] = False,
    config: Annotated[Path | None, Parameter(group=_RUN)] = None,
    overwrite: Annotated[bool, Parameter(group=_RUN)] = False,
) -> int:
    """Screen a cohort: test contrasts at every voxel of everybody's map, corrected by permutations, with a report.

    gpuroi screen participants.tsv --formula 'map ~ group + age' --contrast age --mask mask.nii.gz --tfce --out out/

    Parameters
    ----------
    participants
        Table, TSV or CSV, one row a person: participant_id, map (a path, relative to the table), covariates.
    formula
        Columns, + - : * / ** ( ) 0 1, and C(x) center(x) scale(x) log(x) poly(x, k) bs(x, df=k).
    contrast
        Tested: age, 'a - b/2', 'name=group[T.patient]'; F test: 'a; b', or a factor. Once for each; default: all terms.
    mask
        Image, non-zero inside, on the grid of the maps.
    out
        Folder to write.
    data
        Packed store (gpuroi pack), instead of the maps of the table.
    fwhm
        Smooth the maps by this many mm.
    missing
        People without a value in a covariate: leave them out and say so, or refuse.
    missing_data
        Voxels that some maps lack: leave them out, fill in the mean of the others, or fit each with those that have it.
    min_coverage
        Share of the maps that must have a voxel.
    zero_is_missing
        Zeros in the maps are missing too.
    join
        Further tables, joined by id.
    map_column
        Column with the paths of the maps.
    map_template
        Path of the maps instead, relative to the table: 'maps/{participant_id}.nii.gz'.
    id_column
        Column with the ids.
    design
        FSL .mat, or CSV with a header, instead of a formula.
    con
        FSL contrasts of that design.
    fts
        FSL F tests over these contrasts.
    grp
        FSL file of exchangeability blocks.
    n_permutations
        How many, the unpermuted data counted; 0: parametric p-values alone.
    two_sided
        Large t of either sign; --one-sided: large positive t alone.
    errors
        Exchangeable (ee: permute), independent and symmetric (ise: flip signs), or both.
    flips
        Independent sign flips, or a group of them, which is faster.
    method
        How the nuisance is dealt with.
    blocks
        Columns with exchangeability blocks, from the outermost to the innermost.
    whole_blocks
        Exchange the blocks as wholes instead of within them.
    variance_groups
        Column with groups whose variances may differ.
    permutations
        File of rearrangements as PALM's permidx, instead of random ones.
    tail
        p-values below 1 / n-perm from a fitted distribution.
    seed
        Of the random rearrangements.
    cluster_p
        Cluster-forming p of a voxel, two-sided unless --one-sided.
    cluster_threshold
        Or the threshold itself, on the cluster scale.
    cluster_scale
        Scale of thresholds, cluster mass and TFCE: the statistic, or z.
    cluster_mass
        Sum over a cluster of |statistic|, or of what exceeds the threshold.
    connectivity
        Neighbours of a voxel: over faces (6), and edges (18), and corners (26).
    tfce
        Threshold-free cluster enhancement.
    tfce_step
        exact, max/100 (as PALM), or a number.
    tfce_connectivity
        Neighbours for TFCE, if others.
    atlas
        Label image on the grid of the maps: names of clusters, and means of its regions.
    atlas_names
        Table of the names, if it is not beside the atlas.
    phenotypes
        Columns to be screened, each by itself, instead of contrasts: names or patterns such as 'q_*'.
    phenotype_maps
        Of these, those whose maps are written.
    top
        How many of the largest statistics to keep of each phenotype.
    figures
        Draw figures, for the report too.
    device
        auto, cpu, cuda, cuda:N; several, which share the permutations: cuda:0,cuda:1 or all.
    memory_limit
        Bytes to work with, as 400MB or 8GB; the results do not depend on it.
    scratch
        Folder for what does not fit into memory; by default beside the results.
    n_jobs
        Threads; by default all.
    dask
        Compute on Dask workers: tcp://host:8786, local:4, slurm:config.toml, cuda.
    dry_run
        Check everything and say what it would take, without computing.
    config
        File of an earlier run, out/logs/gpuroi_<time>.toml; options given here win.
    overwrite
        Replace earlier results in the folder.

    Returns
    -------
    int
        Exit code.
    """
    asked = dict(locals())
    how = {name: asked.pop(name) for name in ("device", "memory_limit", "n_jobs", "scratch", "dask")}
    for name in ("out", "figures", "dry_run", "config", "overwrite"):
        del asked[name]
    asked["contrasts"] = asked.pop("contrast")
    asked |= {name: asked[name] or [] for name in ("contrasts", "join", "blocks", "phenotypes", "phenotype_maps")}
    asked["tfce_step"] = _step(tfce_step)
    if dry_run:
        _plan(asked, how, out or Path("out"), overwrite)
        return 0
    if out is None:
        raise UsageError("no folder to write is given", "give one: --out results/")
    _run(asked, how, out, figures, overwrite)
    return 0


def _plan(asked: dict[str, Any], how: dict[str, Any], out: Path, overwrite: bool) -> None:
    """Check everything that the run would check before it computes, and say what it would take."""
    from gpuroi.cli.summary import show
    from gpuroi.workflows.output import check_output
    from gpuroi.workflows.screen_facts import input_facts, input_warnings
    from gpuroi.workflows.screen_input import read_screen_input
    from gpuroi.workflows.screen_settings import ScreenSettings
    from gpuroi.workflows.screen_statistics import How
    from gpuroi.workflows.stopwatch import Stopwatch

    settings = ScreenSettings(**asked)
    check_output(out, overwrite=overwrite)
    found = read_screen_input(settings, Stopwatch())
    here = {name: value for name, value in how.items() if name != "dask"}  # the plan is of one machine
    warnings = (("warning", text) for text in input_warnings(found))
    show([*input_facts(found), *found.plan(How(**here), out=out, timed=True).facts, *warnings])


def _run(asked: dict[str, Any], how: dict[str, Any], out: Path, figures: bool, overwrite: bool) -> None:
    from gpuroi.cli.progress import shown_progress
    from gpuroi.cli.summary import show
    from gpuroi.cohort.bad_inputs import BadInputsError
    from gpuroi.workflows.cohort_input import list_bad_inputs
    from gpuroi.workflows.run_folder import RunFolder
    from gpuroi.workflows.screen import screen as screen_cohort
    from gpuroi.workflows.screen_result import ScreenResult
    from gpuroi.workflows.screen_settings import ScreenSettings

    settings = ScreenSettings(**asked)
    with RunFolder(out, settings.as_json(), overwrite=overwrite, scratch=how.pop("scratch")) as run:
        if run.finished:
            run.finish()
            show([("written", f"{out / 'report.html'}, by the run that was stopped just before its end")])
            return
        try:
            with shown_progress(run.log_path) as progress:
                result = screen_cohort(**asked, **how, run_folder=run, progress=progress)
        except BadInputsError as error:
            list_bad_inputs(out, error)
            raise
        result.save(out, overwrite=overwrite, figures=figures, log=run.log_path)
        run.finish()
    facts = [*result.facts, *(("warning", text) for text in result.warnings), ("written", str(out / "report.html"))]
    if isinstance(result, ScreenResult):
        show(facts, _clusters(result), unit="clusters")
    else:
        show(facts, result.table.sort_values(["p_FWE", "p"]), unit="phenotypes")


def _clusters(result: ScreenResult) -> pd.DataFrame:
    """The clusters of all contrasts as the terminal shows them: first those with p <= 0.05, contrast by contrast."""
    import numpy as np
    import pandas as pd

    from gpuroi.workflows.screen_clusters import ALPHA

    tables = [one.clusters.assign(Contrast=one.name) for one in result.contrasts.values() if len(one.clusters)]
    if not tables:
        return pd.DataFrame()
    joined = pd.concat(tables, ignore_index=True)
    p = joined[[name for name in joined.columns if name.startswith("p_")]].min(axis=1)
    place = joined["Contrast"].map({name: place for place, name in enumerate(result.contrasts)})
    order = np.lexsort((-joined["Peak Stat"].abs(), p, place, p > ALPHA))
    shown = joined.iloc[order].drop(columns=["Sign", "Labels (%)"], errors="ignore").dropna(axis="columns", how="all")
    return shown[["Contrast", *shown.columns.drop("Contrast")]]


def _step(text: float | str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
