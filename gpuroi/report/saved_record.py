"""The record of a run, `provenance.json`, under the names that results have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["SavedRecord"]


@dataclass(frozen=True)
class SavedRecord:
    """What every saved result carries.

    Attributes
    ----------
    provenance : dict
        The content of `provenance.json`.
    """

    provenance: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the run."""
        return dict(self.provenance["settings"])

    @property
    def counts(self) -> dict[str, Any]:
        """What was counted on the way."""
        return dict(self.provenance["counts"])

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Path, size and SHA-256 of every input file."""
        return list(self.provenance["inputs"])

    @property
    def timings(self) -> dict[str, float]:
        """Seconds per stage."""
        return dict(self.provenance["timings_s"])

    @property
    def device(self) -> str:
        """Where it was computed."""
        return str(self.provenance["device"])

    @property
    def command(self) -> list[str] | None:
        """The command line; None where a function was called."""
        return self.provenance.get("command")

    @property
    def versions(self) -> list[tuple[str, str]]:
        """Of the software that computed, not of the one that reports."""
        record = self.provenance
        own = [("gpuroi", record["gpuroi_version"]), ("python", record["python"])]
        return [*own, *record["packages"].items(), ("platform", record["platform"])]
