"""Cohorts: the table of participants, the design of a formula, and the maps as one matrix.

Names are imported when they are first used, so that `import gpuroi.cohort` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names

if TYPE_CHECKING:
    from gpuroi.cohort.bad_inputs import BadInput, BadInputsError
    from gpuroi.cohort.contrasts import Contrast, parse_contrast, parse_contrasts
    from gpuroi.cohort.coverage import CohortSummary, summarise_maps
    from gpuroi.cohort.design import CohortDesign, blocks_of, describe, design_from_matrix
    from gpuroi.cohort.exclusions import drop_missing
    from gpuroi.cohort.formula import TRANSFORMS, design_of
    from gpuroi.cohort.grid_check import check_maps, write_bad_inputs
    from gpuroi.cohort.maps import CohortMaps, maps_peak_bytes, read_maps
    from gpuroi.cohort.missing import Coverage, MissingData, apply_missing
    from gpuroi.cohort.packing import append_maps, pack_maps
    from gpuroi.cohort.participants import Participants, read_participants
    from gpuroi.cohort.store import MapStore, maps_from_store, open_store
    from gpuroi.cohort.vest import (
        read_csv_design,
        read_vest_contrasts,
        read_vest_ftests,
        read_vest_groups,
        read_vest_matrix,
        vest_contrasts,
        write_vest,
    )

__all__ = [
    "TRANSFORMS",
    "BadInput",
    "BadInputsError",
    "CohortDesign",
    "CohortMaps",
    "CohortSummary",
    "Contrast",
    "Coverage",
    "MapStore",
    "MissingData",
    "Participants",
    "append_maps",
    "apply_missing",
    "blocks_of",
    "check_maps",
    "describe",
    "design_from_matrix",
    "design_of",
    "drop_missing",
    "maps_from_store",
    "maps_peak_bytes",
    "open_store",
    "pack_maps",
    "parse_contrast",
    "parse_contrasts",
    "read_csv_design",
    "read_maps",
    "read_participants",
    "read_vest_contrasts",
    "read_vest_ftests",
    "read_vest_groups",
    "read_vest_matrix",
    "summarise_maps",
    "vest_contrasts",
    "write_bad_inputs",
    "write_vest",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.cohort.bad_inputs": ["BadInput", "BadInputsError"],
        "gpuroi.cohort.contrasts": ["Contrast", "parse_contrast", "parse_contrasts"],
        "gpuroi.cohort.coverage": ["CohortSummary", "summarise_maps"],
        "gpuroi.cohort.design": ["CohortDesign", "blocks_of", "describe", "design_from_matrix"],
        "gpuroi.cohort.exclusions": ["drop_missing"],
        "gpuroi.cohort.formula": ["TRANSFORMS", "design_of"],
        "gpuroi.cohort.grid_check": ["check_maps", "write_bad_inputs"],
        "gpuroi.cohort.maps": ["CohortMaps", "maps_peak_bytes", "read_maps"],
        "gpuroi.cohort.missing": ["Coverage", "MissingData", "apply_missing"],
        "gpuroi.cohort.packing": ["append_maps", "pack_maps"],
        "gpuroi.cohort.participants": ["Participants", "read_participants"],
        "gpuroi.cohort.store": ["MapStore", "maps_from_store", "open_store"],
        "gpuroi.cohort.vest": [
            "read_csv_design",
            "read_vest_contrasts",
            "read_vest_ftests",
            "read_vest_groups",
            "read_vest_matrix",
            "vest_contrasts",
            "write_vest",
        ],
    },
)
