"""The participants of a BIDS derivative, each with the one map that the names of the files say is theirs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpuroi.cohort.bad_inputs import BadInput, BadInputsError
from gpuroi.errors import DataError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["BidsTable", "bids_table"]

_LABEL = re.compile(r"[A-Za-z0-9+]+")
_MOST_SHOWN = 4  # files of one participant in a message


@dataclass(frozen=True)
class BidsTable:
    """A table for `gpuroi.screen`.

    Attributes
    ----------
    table : DataFrame of str
        The rows of participants.tsv that take part, in their order, and `map`: an absolute path.
    without_map : list of str
        Ids of those who were left out because they have no map.
    """

    table: pd.DataFrame
    without_map: list[str]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the table as TSV; one that says the same already is left as it is.

        Raises
        ------
        OutputError
            If another table stands there, or it cannot be written.
        """
        from gpuroi.cohort.participants import read_cells
        from gpuroi.images.write import write_tsv

        target = Path(path).expanduser()
        if target.is_file() and not overwrite and _same(read_cells(target, id_column=None), self.table):
            return target
        return write_tsv(target, self.table, overwrite=overwrite)


def bids_table(
    bids_dir: str | os.PathLike[str],
    *,
    participants: str | os.PathLike[str] | None = None,
    labels: Sequence[str] = (),
    suffix: str = "statmap",
    entities: Mapping[str, str] | None = None,
    pattern: str | None = None,
    missing: Literal["error", "drop"] = "error",
) -> BidsTable:
    r"""Find the map of each participant of a BIDS derivative.

    Parameters
    ----------
    bids_dir : path
        A dataset with a folder `sub-<label>` for each participant.
    participants : path, optional
        The table of participants; default `participants.tsv` in `bids_dir`.
    labels : sequence of str
        Who takes part, with or without "sub-". None: everybody in the table.
    suffix : str, default "statmap"
        What stands after the last underscore of the name.
    entities : mapping of str to str, optional
        What else the name must say: ``{"contrast": "faces", "space": "MNI152NLin2009cAsym"}``.
    pattern : str, optional
        Where maps lie, relative to `bids_dir`, with the label in braces: ``"sub-{participant}/**/*_zmap.nii.gz"``.
        Default: images (.nii, .nii.gz) with the suffix anywhere below ``sub-{participant}``.
    missing : {"error", "drop"}, default "error"
        What happens to participants without a map.

    Returns
    -------
    BidsTable

    Raises
    ------
    UsageError
        Labels, entities or a pattern that BIDS does not know.
    DataError
        A dataset or a table that is not there.
    BadInputsError
        Participants without a map, with several, or who are not in the table: all in one error.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "participants.tsv").write_text("participant_id\tage\nsub-01\t34\n")
    ...     Path(folder, "sub-01").mkdir()
    ...     Path(folder, "sub-01", "sub-01_contrast-a_stat-z_statmap.nii.gz").touch()
    ...     Path(folder, "sub-01", "sub-01_contrast-b_stat-z_statmap.nii.gz").touch()
    ...     found = bids_table(folder, entities={"contrast": "b"})
    >>> Path(found.table["map"][0]).name
    'sub-01_contrast-b_stat-z_statmap.nii.gz'
    """
    from gpuroi.cohort.participants import read_cells

    root = Path(bids_dir).expanduser().resolve()
    wanted = dict(entities or {})
    _refuse_what_is_not_bids([*labels, *wanted.values()], pattern)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder", "give the folder of a BIDS derivative")
    source = root / "participants.tsv" if participants is None else Path(participants).expanduser()
    if participants is None and not source.is_file():
        raise DataError(f"{source}: no such file", "give the table of the raw dataset: --participants")
    cells = read_cells(source, id_column="participant_id")
    if "map" in cells:
        raise DataError(f'{source}: there is a column "map" already', f"gpuroi screen takes it as it is: {source}")
    chosen, bad = _chosen(cells, [label.removeprefix("sub-") for label in labels], source)
    maps: dict[str, Path] = {}
    without: list[str] = []
    for who in chosen["participant_id"].drop_duplicates():
        found = _maps_of(root, who.removeprefix("sub-"), suffix, wanted, pattern)
        if len(found) == 1:
            maps[who] = found[0]
        elif found:
            bad.append(_several(root, who, found))
        else:
            without.append(who)
    if without and missing == "error":
        expected = _described(suffix, wanted, pattern)
        bad += [BadInput(who, str(root), "no map", f"one: {expected}") for who in without]
    if not maps and not bad:
        raise DataError(
            f"{root}: nobody has a map: {_described(suffix, wanted, pattern)}",
            "see how the maps are called: --suffix, --contrast-label, --map-pattern",
        )
    if bad:
        raise BadInputsError(
            bad,
            "choose people with --participant-label, one map with --entity; or leave out: --missing-maps drop",
        )
    chosen = chosen[chosen["participant_id"].isin(list(maps))].reset_index(drop=True)
    return BidsTable(chosen.assign(map=[str(maps[who]) for who in chosen["participant_id"]]), without)


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables of text say the same, whatever pandas stores text as."""
    return list(one.columns) == list(other.columns) and one.to_numpy().tolist() == other.to_numpy().tolist()


def _refuse_what_is_not_bids(labels: Sequence[str], pattern: str | None) -> None:
    for label in labels:
        if not _LABEL.fullmatch(label.removeprefix("sub-")):
            raise UsageError(f'"{label}" is no BIDS label', "labels hold letters and digits alone")
    if pattern is None:
        return
    if "{participant}" not in pattern:
        raise UsageError(
            f'the pattern "{pattern}" does not say whose map it is',
            "write it like 'sub-{participant}/**/*_zmap.nii.gz'",
        )
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise UsageError(f'the pattern "{pattern}" leaves the dataset', "give it relative to the folder of the dataset")


def _chosen(cells: pd.DataFrame, labels: Sequence[str], source: Path) -> tuple[pd.DataFrame, list[BadInput]]:
    """Return the rows of those who were asked for, and what is wrong with the ids."""
    ids = cells["participant_id"]
    bad = [
        BadInput(str(who), str(source), f"{times} rows of {who}", "one row a person")
        for who, times in ids.value_counts(sort=False).items()
        if times > 1
    ]
    bad += [
        BadInput(who, str(source), f'the id "{who}"', "sub- and a label of letters and digits")
        for who in ids
        if not _LABEL.fullmatch(who.removeprefix("sub-"))
    ]
    if not labels:
        return cells, bad
    known = set(ids.str.removeprefix("sub-"))
    bad += [
        BadInput(f"sub-{label}", str(source), "no such participant", "an id of the table")
        for label in dict.fromkeys(labels)
        if label not in known
    ]
    return cells[ids.str.removeprefix("sub-").isin(list(labels))].reset_index(drop=True), bad


def _maps_of(root: Path, label: str, suffix: str, entities: Mapping[str, str], pattern: str | None) -> list[Path]:
    if pattern is None:
        candidates = [path for path in (root / f"sub-{label}").rglob(f"*_{suffix}.*") if _is_image(path)]
    else:
        candidates = list(root.glob(pattern.replace("{participant}", label)))
    return sorted(path for path in candidates if _says({"sub": label, **entities}, _entities(path)) and path.is_file())


def _is_image(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz"))


def _says(wanted: Mapping[str, str], found: Mapping[str, str]) -> bool:
    return all(found.get(key) == value for key, value in wanted.items())


def _entities(path: Path) -> dict[str, str]:
    """Return what a BIDS name says.

    Examples
    --------
    >>> _entities(Path("sub-01_task-rest_desc-a-b_bold.nii.gz"))
    {'sub': '01', 'task': 'rest', 'desc': 'a-b'}
    """
    parts = (part.partition("-") for part in path.name.split(".")[0].split("_"))
    return {key: value for key, dash, value in parts if dash}


def _several(root: Path, who: str, found: Sequence[Path]) -> BadInput:
    """Say which maps one person has, and in what their names differ."""
    said = [_entities(path) for path in found]
    keys = dict.fromkeys(key for names in said for key in names)
    differ = [key for key in keys if len({names.get(key) for names in said}) > 1]
    shown = ", ".join(str(path.relative_to(root)) for path in found[:_MOST_SHOWN])
    more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    by = f": choose by {', '.join(differ)}" if differ else ""
    return BadInput(who, str(root), f"{len(found)} maps ({shown}{more})", f"one map{by}")


def _described(suffix: str, entities: Mapping[str, str], pattern: str | None) -> str:
    """Return what is looked for, as a path."""
    where = pattern or f"sub-{{participant}}/**/*_{suffix}.nii.gz"
    said = " and ".join(f"{key}-{value}" for key, value in entities.items())
    return f"{where} with {said} in its name" if said else where
