"""What a group analysis takes: tables, lists and 4-D images, fitted first-level models, surface maps."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import Any

from gpuroi.errors import DataError
from gpuroi.images import Image, check_same_grid, open_image
from gpuroi.nilearn.niimg import is_surface

__all__ = ["GroupInput", "group_input"]

_KINDS = (
    "'second_level_input' must be either:\n"
    "- a pandas DataFrame,\n"
    "- a Niimg-like object\n"
    "- a pandas Series of Niimg-like object\n"
    "- a list of Niimg-like objects\n"
    "- a list of 2D SurfaceImage objects\n"
    "- a 3D SurfaceImage object\n"
    "- a list of FirstLevelModel objects.\n"
    "Got {found} instead."
)


@dataclass(frozen=True)
class GroupInput:
    """The maps of a group.

    Attributes
    ----------
    kind : {"table", "images", "models", "surfaces"}
    source : object
        As given; a table sorted by subject, a Series as a list.
    labels : list of str, or None
        Subjects, where the input names them.
    """

    kind: str
    source: Any
    labels: list[str] | None

    def maps(self, first_level_contrast: Any) -> list[Any]:
        """Return one map a row of the design, as given; a 4-D image is one entry.

        A table gives the rows whose `map_name` is the contrast; models compute it.
        """
        if self.kind == "table":
            rows = self.source[self.source["map_name"] == first_level_contrast]
            if rows.empty:
                found = ", ".join(map(str, self.source["map_name"].unique()[:8]))
                raise DataError(
                    f"no row of 'second_level_input' has map_name {first_level_contrast!r}",
                    f"set first_level_contrast to one of: {found}",
                )
            return list(rows["effects_map_path"])
        if self.kind == "models":
            if first_level_contrast is None:
                raise DataError(
                    "If 'second_level_input' was a list of FirstLevelModel, then first_level_contrast is mandatory. "
                    "It corresponds to the second_level_contrast argument of the compute_contrast method of "
                    "FirstLevelModel."
                )
            return [m.compute_contrast(first_level_contrast, output_type="effect_size") for m in self.source]
        return list(self.source) if isinstance(self.source, list) else [self.source]


def group_input(given: Any, *, has_design: bool, has_confounds: bool) -> GroupInput:
    """Check what was given, with nilearn's exceptions, and say what it is.

    Raises
    ------
    TypeError
        Anything else, or a list of fewer than two or of different kinds.
    DataError
        Missing files or columns, images of several volumes in a list or on different grids, images without a design,
        models that were not fitted.
    """
    import pandas as pd

    if isinstance(given, pd.DataFrame):
        _check_table(given)
        table = given.sort_values("subject_label", kind="stable").reset_index(drop=True)
        return GroupInput("table", table, list(table["subject_label"]))
    if isinstance(given, pd.Series):
        given = given.to_list()
    if isinstance(given, list):
        if len(given) < 2:
            raise TypeError(
                "A second level model requires a list with at least two first level models or niimgs or surface images."
            )
        for i, one in enumerate(given):
            if not isinstance(one, type(given[0])):
                raise TypeError(
                    "Elements of 'second_level_input' must be of the same type. "
                    f"Got object type {type(one)} at idx {i}."
                )
    first = given[0] if isinstance(given, list) else given
    if isinstance(given, list) and hasattr(first, "compute_contrast"):
        _check_models(given, has_confounds)
        labels = [m.subject_label for m in given]
        return GroupInput("models", given, labels if all(isinstance(x, str) for x in labels) else None)
    if is_surface(first):
        kind = "surfaces"
    elif _is_image(first):
        kind = "images"
        _check_images(given)
    else:
        found = [type(x) for x in given] if isinstance(given, list) else type(given)
        raise TypeError(_KINDS.format(found=found))
    if not has_design:
        what = "SurfaceImage objects" if kind == "surfaces" else "niimgs"
        raise DataError(f"List of {what} as 'second_level_input' require a design matrix to be provided.")
    return GroupInput(kind, given, None)


def _is_image(value: object) -> bool:
    return isinstance(value, str | os.PathLike | Image) or (hasattr(value, "dataobj") and hasattr(value, "affine"))


def _check_table(table: Any) -> None:
    if not {"subject_label", "map_name", "effects_map_path"} <= set(table.columns):
        raise DataError(
            "'second_level_input' DataFrame must have columns 'subject_label', 'map_name' and 'effects_map_path'."
        )
    if not all(isinstance(label, str) for label in table["subject_label"]):
        raise DataError("'subject_label' column must contain only strings.")


def _check_models(models: list[Any], has_confounds: bool) -> None:
    for i, model in enumerate(models):
        if not model.__sklearn_is_fitted__():
            raise DataError(f"Model {model.subject_label} at index {i} has not been fit yet.", "call model.fit(...)")
        if has_confounds and model.subject_label is None:
            raise DataError(
                "In case confounds are provided, first level objects need to provide the attribute 'subject_label' to "
                f"match rows appropriately.\nModel at idx {i} does not provide it. To set it, you can do "
                "first_level.subject_label = '01'"
            )


def _check_images(given: Any) -> None:
    sources = given if isinstance(given, list) else [given]
    for source in sources:
        if isinstance(source, str | os.PathLike):
            text = os.path.expanduser(source)  # noqa: PTH111 (patterns are no paths)
            if not glob.has_magic(text) and not os.path.exists(text):  # noqa: PTH110
                raise DataError(f"File not found: '{source}'", "check the path")
    if len(sources) == 1:
        return
    images = [open_image(source) for source in sources]
    for i, image in enumerate(images):
        if image.n_volumes != 1:
            raise DataError(
                "When passing a list of Nifti image, each image must be 3D, or 4D with single volume. Got "
                f"'second_level_input[{i}].shape={(*image.shape, image.n_volumes)}'."
            )
    check_same_grid(images)
