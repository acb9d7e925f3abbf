"""nilearn's exceptions and warnings: its own classes where it is installed, ours with the same bases where it is not.

Use them as attributes, so that nilearn is imported only when something is wrong::

    from gpuroi.nilearn import exceptions
    raise exceptions.DimensionError(4, 3, "sub-01_bold.nii.gz")
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class AllVolumesRemovedError(Exception): ...  # noqa: D101

    class BoundingBoxError(ValueError): ...  # noqa: D101

    class DimensionError(TypeError):  # noqa: D101
        def __init__(self, file_dimension: int, required_dimension: int, name: str = "") -> None: ...
        def increment_stack_counter(self) -> None: ...  # noqa: D102

    class MaskWarning(UserWarning): ...  # noqa: D101

    class MeshDimensionError(ValueError): ...  # noqa: D101

    class NotImplementedWarning(UserWarning): ...  # noqa: D101


__all__ = [
    "AllVolumesRemovedError",
    "BoundingBoxError",
    "DimensionError",
    "MaskWarning",
    "MeshDimensionError",
    "NotImplementedWarning",
    "warn",
]

_HOMES = {
    "AllVolumesRemovedError": "nilearn.exceptions",
    "BoundingBoxError": "nilearn.image.resampling",
    "DimensionError": "nilearn.exceptions",
    "MaskWarning": "nilearn.exceptions",
    "MeshDimensionError": "nilearn.exceptions",
    "NotImplementedWarning": "nilearn.exceptions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(importlib.import_module(_HOMES[name]), name)
    except (ImportError, AttributeError):  # not installed, or a version without it
        found = _OURS[name]
    globals()[name] = _naming(found) if name == "DimensionError" else found
    return globals()[name]


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn in the name of the line that called us: outside gpuroi, and scikit-learn's and joblib's wrappers."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_passed_over()):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _passed_over() -> tuple[str, ...]:
    """Folders of the packages that may stand between a user and us."""
    packages = (sys.modules.get(name) for name in ("gpuroi", "sklearn", "joblib"))
    return tuple(str(Path(package.__file__).parent) for package in packages if package and package.__file__)


class _AllVolumesRemovedError(Exception):
    """No volume is left."""

    def __init__(self) -> None:
        super().__init__(
            "The size of the sample mask is 0. All volumes were marked as motion outliers can not proceed."
        )

    def __str__(self) -> str:
        return f"[AllVolumesRemoved Error] {self.args[0]}"


class _BoundingBoxError(ValueError):
    """Nothing of an image lies within the target of a resampling."""


class _DimensionError(TypeError):
    """An image, or a (nested) list of images, of another number of axes than expected."""

    def __init__(self, file_dimension: int, required_dimension: int) -> None:
        self.file_dimension, self.required_dimension, self.stack_counter = file_dimension, required_dimension, 0
        super().__init__()

    def increment_stack_counter(self) -> None:
        """Count one list around the image."""
        self.stack_counter += 1

    @property
    def message(self) -> str:
        """What arrived and what was expected."""
        lists, axes = self.stack_counter, self.file_dimension
        found = f"list of {axes}D images ({axes + lists}D)" if lists else f"{axes}D image"
        return (
            "Input data has incompatible dimensionality: "
            f"Expected dimension is {self.required_dimension + lists}D and you provided a "
            f"{'list of ' * (lists - 1)}{found}."
        )

    def __str__(self) -> str:
        return self.message


class _MaskWarning(UserWarning):
    """About a mask."""


class _MeshDimensionError(ValueError):
    """Meshes that do not fit."""

    def __init__(self, msg: str = "Meshes have incompatible dimensions.") -> None:
        super().__init__(msg)

    def __str__(self) -> str:
        return f"[MeshDimensionError] {self.args[0]}"


class _NotImplementedWarning(UserWarning):
    """About something that is not there."""


_OURS = {
    "AllVolumesRemovedError": _AllVolumesRemovedError,
    "BoundingBoxError": _BoundingBoxError,
    "DimensionError": _DimensionError,
    "MaskWarning": _MaskWarning,
    "MeshDimensionError": _MeshDimensionError,
    "NotImplementedWarning": _NotImplementedWarning,
}


def _naming(base: Any) -> Any:
    """Return the class whose message says which image it was."""

    def init(self: Any, file_dimension: int, required_dimension: int, name: str = "") -> None:
        base.__init__(self, file_dimension, required_dimension)
        self.name = name

    def text(self: Any) -> str:
        return f"{self.name}: {self.message}" if self.name else str(self.message)

    def reduce(self: Any) -> tuple[Any, ...]:
        state = {"stack_counter": self.stack_counter}
        return type(self), (self.file_dimension, self.required_dimension, self.name), state

    methods = {"__init__": init, "__str__": text, "__reduce__": reduce, "__module__": __name__, "__doc__": base.__doc__}
    return type("DimensionError", (base,), methods)
