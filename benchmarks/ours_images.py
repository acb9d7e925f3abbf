"""Our own functions for images, where they are no drop-ins."""

from __future__ import annotations

from benchmarks.inputs import MapBatch
from benchmarks.inputs_images import as_image, as_new
from benchmarks.settings import Call, Outputs
from gpuroi.backends import Backend

__all__ = ["extract"]


def extract(maps: MapBatch, backend: Backend) -> Call:
    from gpuroi.images import extract as extract_signals

    assert maps.labels is not None
    image, atlas = as_image(maps.volumes), as_image(maps.labels)

    def call() -> Outputs:
        table = extract_signals(as_new(image), as_new(atlas), device=backend.device)
        return {"means": table.iloc[:, 2:].to_numpy()}

    return call
