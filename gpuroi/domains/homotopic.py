"""Which parcels of the two hemispheres are each other's counterparts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError, UsageError

__all__ = ["homotopic_pairs"]

_SIDES = {"lh": "left", "l": "left", "left": "left", "rh": "right", "r": "right", "right": "right"}


def homotopic_pairs(
    ids: NDArray[np.int64], homotopic: Any, centres_mm: NDArray[np.float64] | None = None, *, within_mm: float = 15.0
) -> NDArray[np.int64]:
    """Return pairs of ids, one of each hemisphere.

    Parameters
    ----------
    ids : int64 array, shape (v,)
        Ascending.
    homotopic : array of int, shape (n, 2), mapping or Series, or "mirror"
        The pairs themselves. Or a name for ids, such as "7Networks_LH_Vis_1": names that differ in their side alone
        (LH and RH, L and R, left and right, in either case) make a pair; a name without a side makes none. Or "mirror":
        two parcels are a pair if each is nearest to the mirror image of the other's centre across x = 0.
    centres_mm : float64 array, shape (v, 3), optional
        RAS+, in a space whose midline is x = 0, such as MNI's. Needed for "mirror".
    within_mm : float, default 15
        For "mirror": the mirror image lies at most this far from the counterpart's centre.

    Returns
    -------
    int64 array, shape (n, 2)

    Raises
    ------
    UsageError
        "mirror" without centres; anything else that is no pairs and no names.
    DataError
        Names of unknown ids; several parcels of one name; no pair at all.

    Notes
    -----
    A parcel that lies in both hemispheres is nearest to its own mirror image and is nobody's counterpart. Parcels made
    for each hemisphere apart (Schaefer's, for one) have counterparts that are only roughly homotopic.

    Examples
    --------
    >>> homotopic_pairs(np.array([1, 2, 9]), {1: "ctx-lh-cuneus", 9: "ctx-rh-cuneus", 2: "Brain-Stem"}).tolist()
    [[1, 9]]
    >>> homotopic_pairs(np.array([1, 2, 9]), "mirror", np.array([[-30.0, 5, 1], [1, 0, 0], [31, 7, 0]])).tolist()
    [[1, 9]]
    """
    if isinstance(homotopic, str):
        if homotopic != "mirror":
            raise UsageError(f'homotopic is "{homotopic}"', 'use "mirror", pairs of ids, or a name for each id')
        if centres_mm is None:
            raise UsageError("mirroring needs to know where the parcels lie", "pass affine=img.affine")
        pairs = _mirrored(ids, centres_mm, within_mm)
    elif isinstance(homotopic, Mapping) or hasattr(homotopic, "items"):
        pairs = _named_alike(ids, {int(key): str(name) for key, name in homotopic.items()})
    else:
        return np.asarray(homotopic)
    if not len(pairs):
        raise DataError("no parcel has a counterpart in the other hemisphere", "give the pairs of ids themselves")
    return pairs


def _mirrored(ids: NDArray[np.int64], centres_mm: NDArray[np.float64], within_mm: float) -> NDArray[np.int64]:
    """Pairs that are mutually nearest when mirrored."""
    mirrored = centres_mm * (-1.0, 1.0, 1.0)
    nearest = np.empty(len(ids), np.int64)
    distance = np.empty(len(ids))
    for i, place in enumerate(mirrored):  # a row at a time: no table of all distances
        squared = ((centres_mm - place) ** 2).sum(axis=1)
        nearest[i] = squared.argmin()
        distance[i] = np.sqrt(squared[nearest[i]])
    here = np.arange(len(ids))
    mutual = (nearest[nearest] == here) & (nearest > here) & (distance <= within_mm)
    return np.stack([ids[here[mutual]], ids[nearest[mutual]]], axis=1)


def _named_alike(ids: NDArray[np.int64], names: dict[int, str]) -> NDArray[np.int64]:
    """Pairs whose names differ in their side alone."""
    unknown = sorted(set(names) - set(ids.tolist()) - {0})  # look-up tables have a row for the background
    if unknown:
        raise DataError(f"names are given for parcels that do not exist: {', '.join(map(str, unknown))}")
    by_name: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for parcel, name in names.items():
        words = [word for word in re.split(r"[^0-9a-z]+", name.lower()) if word]
        at = [place for place, word in enumerate(words) if word in _SIDES]
        if len(at) != 1 or parcel == 0:
            continue
        key = (*words[: at[0]], "", *words[at[0] + 1 :])
        by_name.setdefault(key, {}).setdefault(_SIDES[words[at[0]]], []).append(parcel)
    double = [parcels for sides in by_name.values() for parcels in sides.values() if len(parcels) > 1]
    if double:
        listed = "; ".join(f"{', '.join(map(str, parcels))} ({names[parcels[0]]})" for parcels in double)
        raise DataError(f"parcels share a name: {listed}", "give the pairs of ids themselves")
    pairs = [(sides["left"][0], sides["right"][0]) for sides in by_name.values() if len(sides) == 2]
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
