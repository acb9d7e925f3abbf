"""Every deliberate error: a message, a hint of its own, and the exit code that the command line returns."""

from __future__ import annotations

__all__ = [
    "BackendError",
    "DataError",
    "DeviceError",
    "GpuroiError",
    "GridError",
    "OutputError",
    "UsageError",
]


class GpuroiError(Exception):
    """Base of all deliberate errors.

    Parameters
    ----------
    message : str
        What arrived and what was expected, naming the file or the argument.
    hint : str, optional
        What to type or change. The command line prints it on its own line.

    Attributes
    ----------
    exit_code : int
        What the command line returns: 2 usage, 65 bad data, 69 device unavailable, 70 internal,
        73 cannot write, 75 interrupted and resumable.
    """

    exit_code: int = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(GpuroiError, ValueError):
    """An argument outside its range, or arguments that contradict each other."""

    exit_code = 2


class DataError(GpuroiError, ValueError):
    """Input data that cannot be used: a broken file, shapes that do not fit, a condition that does not occur."""

    exit_code = 65


class GridError(DataError):
    """Images that do not lie on the same voxel grid."""


class BackendError(GpuroiError, TypeError):
    """NumPy and CuPy arrays in one call, or an array of a kind that no backend owns."""

    exit_code = 65


class DeviceError(GpuroiError, RuntimeError):
    """The device asked for cannot be used here."""

    exit_code = 69


class OutputError(GpuroiError, OSError):
    """An output that cannot be written, or that stands already."""

    exit_code = 73

    def __str__(self) -> str:
        return GpuroiError.__str__(self)
