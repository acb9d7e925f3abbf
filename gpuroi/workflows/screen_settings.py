"""What a screening is asked to do: checked before anything is read, and written so that it can be run again."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.cohort_input import CohortSource, several

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["ScreenSettings", "read_permutations"]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "missing": ("drop-subject", "error"),
    "missing_data": ("drop-voxel", "mean", "pattern"),
    "errors": ("ee", "ise", "both"),
    "flips": ("random", "group"),
    "method": ("freedman-lane", "draper-stoneman", "ter-braak"),
    "cluster_scale": ("t", "z"),
    "cluster_mass": ("sum", "excess"),
    "connectivity": (6, 18, 26),
    "tfce_connectivity": (None, 6, 18, 26),
    "tail": (None, "gpd", "gamma"),
}
_FILES = ("participants", "mask", "data", "design", "con", "fts", "grp", "permutations", "atlas", "atlas_names")
_SEVERAL = ("contrasts", "blocks", "join", "phenotypes", "phenotype_maps")  # one of them needs no list
_OPTIONS = {"contrasts": "contrast", "n_permutations": "n-perm"}  # other options have the names of the arguments


@dataclass(frozen=True)
class ScreenSettings:
    """The arguments of `screen` that its results depend on; they are described there.

    Raises
    ------
    UsageError
        An argument outside its range, or arguments that contradict each other.

    Examples
    --------
    >>> settings = ScreenSettings("participants.tsv", formula="map ~ age", cluster_p=0.001)
    >>> round(settings.threshold("t", 1, 28.0), 3), settings.sides
    (3.674, 'two-sided')
    """

    participants: Any
    formula: str | None = None
    contrasts: Sequence[str] = ()
    mask: Any = None
    data: Any = None
    design: Any = None
    con: Any = None
    fts: Any = None
    grp: Any = None
    blocks: Sequence[str] = ()
    whole_blocks: bool = False
    join: Sequence[Any] = ()
    map_column: str | None = "map"
    map_template: str | None = None
    id_column: str = "participant_id"
    missing: Any = "drop-subject"
    missing_data: Any = "drop-voxel"
    min_coverage: float = 0.9
    zero_is_missing: bool = False
    fwhm: float | None = None
    n_permutations: int = 5000
    errors: Any = "ee"
    flips: Any = "random"
    method: str = "freedman-lane"
    permutations: Any = None
    variance_groups: str | None = None
    two_sided: bool = True
    cluster_p: float | None = None
    cluster_threshold: float | None = None
    cluster_scale: str = "t"
    cluster_mass: str = "sum"
    connectivity: int = 6
    tfce: bool = False
    tfce_step: float | str = "exact"
    tfce_connectivity: int | None = None
    tail: str | None = None
    seed: int = 0
    atlas: Any = None
    atlas_names: Any = None
    phenotypes: Sequence[str] = ()
    phenotype_maps: Sequence[str] = ()
    top: int = 100

    def __post_init__(self) -> None:
        for name in _SEVERAL:
            object.__setattr__(self, name, several(getattr(self, name)))
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(f"{name} is {value!r}", f"use {', '.join(str(one) for one in allowed if one)}")
        self._check_numbers()
        self._check_together()

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> ScreenSettings:
        """Take those of some arguments that results depend on."""
        return cls(**{field.name: arguments[field.name] for field in dataclasses.fields(cls)})

    @property
    def source(self) -> CohortSource:
        """Table, maps and design."""
        return CohortSource(**{one.name: getattr(self, one.name) for one in dataclasses.fields(CohortSource)})

    @property
    def files(self) -> list[Any]:
        """The files that they name, but for maps and store, and images in memory; None where there is none."""
        return [*self.source.files, self.permutations, self.atlas, self.atlas_names]

    @property
    def scale(self) -> str:
        """Scale of clusters and TFCE: z where groups have variances of their own."""
        return "t" if self.cluster_scale == "t" and self.variance_groups is None else "z"

    @property
    def sides(self) -> str:
        """In words."""
        return "two-sided" if self.two_sided else "one-sided (positive)"

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Type of the maps; None is as stored.

        TFCE in steps jumps by a whole step where a voxel lies at the edge of one: rounding of float32 shows there, and
        PALM, which steps are for, computes in double precision.
        """
        return np.dtype(np.float64) if self.tfce and self.tfce_step != "exact" else None

    @property
    def permutes(self) -> bool:
        """There are rearrangements to run."""
        return self.n_permutations > 0 or self.permutations is not None

    @property
    def finds_clusters(self) -> bool:
        """There is a cluster-forming threshold."""
        return self.cluster_p is not None or self.cluster_threshold is not None

    def threshold(self, kind: str, n_rows: int, df: float) -> float | None:
        """Return the cluster-forming threshold of a contrast on the scale of the clusters; None without clusters.

        Parameters
        ----------
        kind : {"t", "F"}
        n_rows : int
            Rank of an F contrast.
        df : float
            Degrees of freedom that the design leaves.
        """
        if self.cluster_p is None:
            return self.cluster_threshold
        from scipy import stats

        p = self.cluster_p / 2 if kind == "t" and self.two_sided else self.cluster_p
        if self.scale == "z":
            return float(stats.norm.isf(p))
        return float(stats.t.isf(p, df) if kind == "t" else stats.f.isf(p, n_rows, df))

    def as_json(self) -> dict[str, Any]:
        """Return the settings for records: paths as they were given, what lies in memory by its type and shape."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def as_toml(self) -> str:
        """Return the settings as the file that `gpuroi screen --config` takes: the same run, wherever it is started."""
        lines = ["# gpuroi screen --config THIS-FILE --out FOLDER"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            option = _OPTIONS.get(field.name, field.name.replace("_", "-"))
            if value is None or (isinstance(value, Sequence) and not isinstance(value, str) and not len(value)):
                continue
            if not _is_plain(value):
                lines.append(f"# {option}: {_plain(value)} (was in memory)")
                continue
            if field.name in _FILES:
                value = str(Path(value).expanduser().resolve())
            elif field.name == "join":
                value = [str(Path(path).expanduser().resolve()) for path in value]
            lines.append(f"{option} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    def _check_numbers(self) -> None:
        if self.n_permutations < 0:
            raise UsageError(f"n_permutations is {self.n_permutations}", "give a number of 1 or more, or 0 for none")
        if not 0 <= self.min_coverage <= 1:
            raise UsageError(f"min_coverage is {self.min_coverage}", "give a share of the maps from 0 to 1")
        if self.fwhm is not None and not 0 <= self.fwhm < math.inf:
            raise UsageError(f"fwhm is {self.fwhm}", "give the smoothing in mm")
        if self.cluster_p is not None and not 0 < self.cluster_p < 1:
            raise UsageError(f"cluster_p is {self.cluster_p}", "give a p-value between 0 and 1, such as 0.001")
        if self.cluster_threshold is not None and not 0 < self.cluster_threshold < math.inf:
            raise UsageError(
                f"cluster_threshold is {self.cluster_threshold}",
                f"give a value above 0 on the {self.scale} scale, such as 3.1; a p-value is given by cluster_p",
            )
        is_step = isinstance(self.tfce_step, int | float) and 0 < self.tfce_step < math.inf
        if not is_step and self.tfce_step not in ("exact", "max/100"):
            raise UsageError(f"tfce_step is {self.tfce_step!r}", 'use "exact", "max/100" or a step above 0')
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}", "give a whole number of 0 or more")
        if self.top < 1:
            raise UsageError(f"top is {self.top}", "keep 1 or more")

    def _check_together(self) -> None:
        if self.formula is None and self.design is None:
            raise UsageError("no design is given", "give a formula such as 'map ~ group + age', or a design file")
        if self.cluster_p is not None and self.cluster_threshold is not None:
            raise UsageError("cluster_p and cluster_threshold are both given", "give one of them")
        if not self.permutes and (self.tfce or self.tail):
            what = "TFCE" if self.tfce else "the tail approximation"
            raise UsageError(f"{what} without permutations", "its p-values come from them: give n_permutations")
        if self.flips == "group" and (self.errors != "ise" or self.permutations is not None):
            raise UsageError('flips is "group"', 'a group is of sign flips alone: errors="ise", no permutations')
        if self.data is not None and self.fwhm:
            raise UsageError("fwhm with a packed store", "smooth when packing: gpuroi pack --fwhm")
        if self.data is not None and self.map_template is not None:
            raise UsageError("a packed store and a path template are both given", "give one of them")
        if self.atlas_names is not None and self.atlas is None:
            raise UsageError("names of an atlas without the atlas", "give the label image too: atlas")
        if self.phenotypes and self.contrasts:
            raise UsageError("phenotypes and contrasts are both given", "each phenotype is a contrast of its own")
        if self.phenotype_maps and not self.phenotypes:
            raise UsageError("phenotype_maps without phenotypes", "say which columns are phenotypes")
        if self.phenotypes:
            self._check_phenotypes()

    def _check_phenotypes(self) -> None:
        """Refuse what would be passed over: phenotypes have t and its maxima alone."""
        given = {
            "clusters": self.finds_clusters,
            "TFCE": self.tfce,
            "a tail approximation": bool(self.tail),
            "permutations of your own": self.permutations is not None,
            "variance groups": self.variance_groups is not None,
            "an atlas": self.atlas is not None,
            'flips="group"': self.flips == "group",
            f'method="{self.method}"': self.method != "freedman-lane",
        }
        if others := [name for name, is_given in given.items() if is_given]:
            raise UsageError(
                f"phenotypes together with {', '.join(others)}",
                "phenotypes have t, its maxima and p alone; screen a phenotype as a contrast for more",
            )


def read_permutations(given: Any, n: int) -> NDArray[np.int64] | None:
    """Return the rearrangements of a file as PALM's permidx, or of an array, int64, (k, n).

    Parameters
    ----------
    given : path, array or None
        Comma-separated, one rearrangement a row.
    n : int
        Rows of the design.

    Raises
    ------
    DataError
        A file that cannot be read, that holds no whole numbers, or that is of another number of people.
    """
    if given is None:
        return None
    is_file = isinstance(given, str | os.PathLike)
    name = str(given) if is_file else "permutations"
    try:
        values = np.loadtxt(given, delimiter=",", ndmin=2) if is_file else np.asarray(given, dtype=np.float64)
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file", "check the path") from error
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{name}: {said}", "one rearrangement a row, numbers separated by commas") from error
    if values.ndim != 2 or values.shape[1] != n:
        raise DataError(
            f"{name}: rearrangements of {values.shape[-1]} people, but the design has {n} rows",
            "they are of the people who stay, in the order of the table (participants_used.tsv)",
        )
    if not np.array_equal(values, np.rint(values)):
        raise DataError(f"{name}: holds values that are no whole numbers", "places from 1 to n, with a sign")
    return values.astype(np.int64)


def _toml(value: Any) -> str:
    """A value as TOML has it: JSON, but for DEL. Bytes that are not UTF-8 become escapes, which TOML refuses."""
    text = json.dumps(value, ensure_ascii=False, default=list).replace("\x7f", "\\u007f")
    return text.encode("utf-8", "backslashreplace").decode()


def _is_plain(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_is_plain(one) for one in value)
    return isinstance(value, str | os.PathLike | bool | int | float)


def _plain(value: Any) -> Any:
    """Return what JSON has."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or _is_plain(value):
        return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(int(n) for n in shape)}" if shape is not None else "")
