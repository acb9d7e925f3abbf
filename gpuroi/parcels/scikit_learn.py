"""scikit-learn, which parcellations alone need, or an error that says how to get it."""

from __future__ import annotations

import importlib.util

from gpuroi.errors import UsageError

__all__ = ["MissingPackageError", "need_scikit_learn"]


class MissingPackageError(UsageError, ImportError):
    """A package that only a part of gpuroi needs is not installed."""


def need_scikit_learn(what: str) -> None:
    """Raise if scikit-learn is not installed.

    Parameters
    ----------
    what : str
        Who asks, for the message.

    Raises
    ------
    MissingPackageError
        A `UsageError` and an `ImportError`.

    Examples
    --------
    >>> need_scikit_learn("Parcellation")
    """
    if importlib.util.find_spec("sklearn") is None:
        raise MissingPackageError(
            f"{what} needs scikit-learn, which is not installed", "pip install 'gpuroi[parcellate]'"
        )
