"""Pack a cohort on many workers: each writes whole shards, which nobody else touches."""

from __future__ import annotations

import os
from typing import Any

from gpuroi.cohort.grid_check import HasMaps
from gpuroi.cohort.packing import BandWriter, PackedBand, pack_maps
from gpuroi.cohort.store import MapStore
from gpuroi.distributed.tasks import run_tasks

__all__ = ["pack_on"]


def pack_on(client: Any, participants: HasMaps, mask: Any, out: str | os.PathLike[str], **options: Any) -> MapStore:
    """Pack maps as `gpuroi.cohort.pack_maps` does, on the workers of a Dask cluster.

    Parameters
    ----------
    client : dask.distributed.Client
    participants, mask, out, **options
        As in `pack_maps`. Workers read the maps and write the store: both must lie where all of them find it under the
        same name.

    Returns
    -------
    MapStore
        The same bytes as on one machine.

    Raises
    ------
    DataError, OutputError, UsageError
        As `pack_maps`.
    """

    def spread(writer: BandWriter, bands: list[slice]) -> list[PackedBand]:
        return run_tasks(client, writer, [(band,) for band in bands], name="pack")

    return pack_maps(participants, mask, out, spread=spread, **options)
