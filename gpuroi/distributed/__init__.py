"""A screening spread over the workers of a Dask cluster; the numbers are those of one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names

if TYPE_CHECKING:
    from gpuroi.distributed.client import dask_client
    from gpuroi.distributed.fitting import glm_on
    from gpuroi.distributed.packing import pack_on
    from gpuroi.distributed.permutations import permutation_test_on

__all__ = ["dask_client", "glm_on", "pack_on", "permutation_test_on"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.distributed.client": ["dask_client"],
        "gpuroi.distributed.fitting": ["glm_on"],
        "gpuroi.distributed.packing": ["pack_on"],
        "gpuroi.distributed.permutations": ["permutation_test_on"],
    },
)
