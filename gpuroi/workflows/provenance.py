"""What was done, with what, to which bytes: the records that a result folder carries."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpuroi

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["dataset_description", "describe_inputs", "provenance", "provenance_of"]

_PACKAGES = ("numpy", "scipy", "numba", "nibabel", "pandas", "nilearn", "matplotlib", "cupy", "cucim")
_BLOCK = 1 << 20


def describe_inputs(sources: Iterable[Any]) -> list[dict[str, Any]]:
    """Return path, size and SHA-256 of every file among the sources.

    Parameters
    ----------
    sources : iterable of paths, images, arrays or None
        None is passed over. What lies in memory is named by its type and shape. Header and image of
        a pair (.hdr, .img) are both listed.

    Returns
    -------
    list of dict
    """
    found: list[dict[str, Any]] = []
    for source in sources:
        if isinstance(source, (str, os.PathLike)):
            found.extend(_describe_file(path) for path in _with_pair(Path(source)))
        elif source is not None:
            shape = getattr(source, "shape", None) or [len(source)]
            found.append({"in_memory": type(source).__name__, "shape": [int(n) for n in shape]})
    return found


def provenance(
    workflow: str,
    *,
    settings: Mapping[str, Any],
    inputs: list[dict[str, Any]],
    counts: Mapping[str, Any],
    timings: Mapping[str, float],
    device: str,
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the record of one run, ready for JSON.

    The same inputs and settings give the same record, apart from `date` and `timings_s`.

    Parameters
    ----------
    workflow : str
        Name of the function, as in "roi".
    settings : mapping
        Its arguments, with the defaults filled in.
    inputs : list of dict
        From `describe_inputs`.
    counts, timings : mapping
    device : str
        Where it ran: "cpu", "cuda:0".
    notes : iterable of str
        What was left out, and why.

    Returns
    -------
    dict
    """
    return {
        "gpuroi_version": gpuroi.__version__,
        "workflow": workflow,
        "command": _command(),
        "settings": dict(settings),
        "device": device,
        "inputs": inputs,
        "counts": dict(counts),
        "notes": list(notes),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "timings_s": {stage: round(seconds, 6) for stage, seconds in timings.items()},
    }


def provenance_of(
    result: Any, workflow: str, notes: Iterable[str] | None = None, *, more_counts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the record of the run that made a result.

    Parameters
    ----------
    result : object
        Its `settings`, `inputs`, `counts`, `timings` and `device` are read.
    workflow, notes
        As in `provenance`.
    more_counts : mapping, optional
        Beside those of the result.

    Returns
    -------
    dict
    """
    return provenance(
        workflow,
        settings=result.settings,
        inputs=result.inputs,
        counts={**result.counts, **(more_counts or {})},
        timings=result.timings,
        device=result.device,
        notes=notes or (),
    )


def dataset_description(name: str) -> dict[str, Any]:
    """Return the `dataset_description.json` of a BIDS derivative.

    `GeneratedBy` names the container if the environment variable GPUROI_CONTAINER holds its tag.

    Examples
    --------
    >>> dataset_description("gpuroi roi")["DatasetType"]
    'derivative'
    """
    generator: dict[str, Any] = {
        "Name": "gpuroi",
        "Version": gpuroi.__version__,
        "CodeURL": "https://github.com/gpuroi/gpuroi",
    }
    container = os.environ.get("GPUROI_CONTAINER")
    if container:
        generator["Container"] = {"Type": "docker", "Tag": container}
    return {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [generator]}


def _command() -> list[str] | None:
    """Return the command line, if it was gpuroi's own; None where the workflow was called from Python."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    package = Path(sys.argv[0]).parts[-3:-1] if name == "__main__.py" else ()
    program = name.removesuffix(".exe")
    if program in ("gpuroi", "gpuroi-bids") or "gpuroi" in package:
        return [program if program == "gpuroi-bids" else "gpuroi", *sys.argv[1:]]
    return None


def _versions() -> dict[str, str]:
    """Return the versions of the installed packages that results depend on, without importing them."""
    versions = {}
    for package in _PACKAGES:
        names = (package, f"{package}-cuda12x", f"{package}-cuda13x", f"{package}-cu12", f"{package}-cu13")
        for name in names:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def _describe_file(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return {"path": str(path), "bytes": size, "sha256": digest.hexdigest()}


def _with_pair(path: Path) -> list[Path]:
    """Return the file and, of an Analyze or NIfTI pair, the other half."""
    other = {".hdr": ".img", ".img": ".hdr"}.get(path.suffix)
    pair = path.with_suffix(other) if other else path
    return [path, pair] if other and pair.exists() else [path]
