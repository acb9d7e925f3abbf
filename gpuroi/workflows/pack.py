"""Pack the maps of a table into one store, or add those of its new participants to a store."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpuroi.errors import UsageError
from gpuroi.workflows.check_facts import spaced
from gpuroi.workflows.cohort_input import list_bad_inputs
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from gpuroi.cohort.participants import Participants
    from gpuroi.cohort.store import MapStore

__all__ = ["PackResult", "pack"]


@dataclass(frozen=True)
class PackResult:
    """A packed cohort.

    Attributes
    ----------
    store : MapStore
    n_added : int
        Maps that this run has packed.
    n_known : int
        Participants of the table who were in the store already.
    timings : dict of str to float
        Seconds of each stage.
    facts : list of (str, str)
        What the command prints.
    """

    store: MapStore
    n_added: int
    n_known: int
    timings: dict[str, float] = field(repr=False)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What was packed, in words."""
        store = self.store
        n, v = store.shape
        size, raw = store.bytes_on_disk(), n * v * store.dtype.itemsize
        said = [
            ("packed", f"{self.n_added} maps" + (f", {self.n_known} were there" if self.n_known else "")),
            ("store", f"{n} x {spaced(v)} {store.dtype}, {size / 1e6:.1f} MB on disk ({raw / 1e6:.1f} MB of values)"),
        ]
        if store.smoothing_fwhm_mm:
            said.append(("smoothed", f"{store.smoothing_fwhm_mm:g} mm"))
        missing = [n for n in store.missing_per_map if n]
        if missing:
            said.append(
                ("missing", f"{spaced(sum(missing))} NaN or infinite values in {len(missing)} maps, kept as they are")
            )
        error, lost = store.attributes["largest_relative_error"], store.attributes["n_underflows"]
        if error or lost:
            small = f"; {spaced(lost)} values below its normal range" if lost else ""
            said.append(("rounding", f"largest relative error {error:.2g}{small}"))
        return [*said, ("written", str(store.path))]


def pack(
    participants: str | os.PathLike[str] | Participants,
    *,
    mask: Any = None,
    out: str | os.PathLike[str],
    dtype: DTypeLike | None = None,
    smoothing: float | None = None,
    append: bool = False,
    map_column: str = "map",
    map_template: str | None = None,
    id_column: str = "participant_id",
    memory_limit: int | str | None = None,
    overwrite: bool = False,
) -> PackResult:
    """Pack the maps of a table into one store, or add those of its new participants to a store.

    Parameters
    ----------
    participants : path or Participants
        The table, with a column of paths.
    mask : path, image or VoxelGrid
        Non-zero inside; on the grid of the maps. With `append` it may be left out.
    out : path
        Of the store; ends in `.zarr`.
    dtype : dtype, optional
        float16, float32, float64, int8, uint8, int16 or uint16; default as stored.
    smoothing : float, optional
        Full width at half maximum in mm.
    append : bool, default False
        Add to the store that is there.
    map_column, map_template, id_column
        As in `gpuroi.cohort.read_participants`.
    memory_limit : int or str, optional
        Bytes, as 400MB or 8GB.
    overwrite : bool, default False
        Replace a store that is there.

    Returns
    -------
    PackResult

    Raises
    ------
    BadInputsError
        One for all maps that cannot be used; `bad_inputs.tsv` beside the store lists them.
    DataError, OutputError, UsageError

    See Also
    --------
    gpuroi.cohort.pack_maps, gpuroi.cohort.append_maps : with the rules in full.
    """
    from gpuroi.cohort.bad_inputs import BadInputsError
    from gpuroi.cohort.packing import append_maps, pack_maps
    from gpuroi.cohort.store import open_store

    if append and overwrite:
        raise UsageError("append and overwrite contradict each other", "give one of them")
    if mask is None and not append:
        raise UsageError("no mask is given", "give --mask: an image, non-zero inside")
    watch = Stopwatch()
    try:
        with watch("read table"):
            people = _people(participants, map_column, map_template, id_column)
        with watch("pack"):
            options: dict[str, Any] = {"dtype": dtype, "smoothing_fwhm_mm": smoothing, "memory_limit": memory_limit}
            n_before = open_store(out).shape[0] if append else 0
            if append:
                store = append_maps(people, out, mask=mask, **options)
            else:
                store = pack_maps(people, mask, out, overwrite=overwrite, **options)
    except BadInputsError as error:
        list_bad_inputs(out, error)
        raise
    n_added = store.shape[0] - n_before
    return PackResult(store, n_added, len(people.ids) - n_added, dict(watch.seconds))


def _people(
    participants: str | os.PathLike[str] | Participants, map_column: str, map_template: str | None, id_column: str
) -> Participants:
    from gpuroi.cohort.participants import read_participants

    if not isinstance(participants, str | os.PathLike):
        return participants
    return read_participants(participants, map_column=map_column, template=map_template, id_column=id_column)
