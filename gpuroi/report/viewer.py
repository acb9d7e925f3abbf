"""An interactive slice viewer within a page: three cuts, moved by pointer or keyboard, through one of several maps."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.report.map_figures import COLD, HOT
from gpuroi.report.slices import finite, grey_limits, orient, tilt_note, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from gpuroi.report.slices import Oriented

__all__ = ["Layer", "slice_viewer"]

_MOST_BYTES = 4_000_000  # of the viewer within the page
_MARGIN = 2  # voxels around what is shown
_STEPS = 32767  # int16


@dataclass(frozen=True)
class Layer:
    """One map of a viewer.

    Attributes
    ----------
    name : str
        In the list of maps.
    values : array, shape (X, Y, Z)
        NaN and 0 are not drawn.
    what : str
        What a value is: "t".
    cut : float
        Drawn from here on at first; a slider changes it.
    signed : bool, default True
        False for F and other maps without negative values.
    peaks : mapping of str to (x, y, z) in mm
        Places to go to.
    """

    name: str
    values: NDArray[Any] = field(repr=False)
    what: str
    cut: float
    signed: bool = True
    peaks: Mapping[str, ArrayLike] = field(default_factory=dict)


def slice_viewer(
    layers: Sequence[Layer], background: NDArray[Any], affine: NDArray[np.float64], *, most_bytes: int = _MOST_BYTES
) -> str:
    """Return a viewer as HTML, for a page made by `document`. It starts when it is opened.

    Parameters
    ----------
    layers : sequence of Layer
        At least one; shown one at a time.
    background : array, shape (X, Y, Z)
        In grey.
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+. Cuts are along the axes of the image; nothing is resampled.
    most_bytes : int
        If the maps need more within the page, every second voxel along each axis is left out, and so on.

    Returns
    -------
    str

    Notes
    -----
    Values are stored in 65535 steps from the smallest to the largest of their map, 16 bits a voxel, packed by gzip.
    """
    grid = orient(background.shape, affine)
    grey = finite(grid.turn(background))
    maps = [grid.turn(layer.values) for layer in layers]
    inside, tops = visible(grey), []
    for values in map(finite, maps):  # in float64 one at a time
        inside |= values != 0
        tops.append(float(np.abs(values).max(initial=0.0)) or 1.0)
    window = _window(inside)
    step = 1
    while True:
        part = tuple(slice(one.start, one.stop, step) for one in window)
        packed = [_packed_values(finite(values[part]), largest) for values, largest in zip(maps, tops, strict=True)]
        shade = _packed(_shades(grey[part], grey_limits(grey)))
        if step >= 8 or sum(map(len, packed)) + len(shade) <= most_bytes:
            break
        step += 1
    start = np.array([one.start for one in window], np.float64)
    turned = grid.affine.copy()
    turned[:3, 3] += turned[:3, :3] @ start
    turned[:3, :3] *= step
    shape = grey[part].shape
    data = {
        "shape": shape,
        "zooms": grid.zooms_mm.tolist(),
        "affine": turned.tolist(),
        "hot": [_rgb(colour) for colour in HOT],
        "cold": [_rgb(colour) for colour in COLD],
        "background": shade,
        "layers": [
            _described(layer, largest, text, turned, shape)
            for layer, largest, text in zip(layers, tops, packed, strict=True)
        ],
    }
    return _html(layers, data, step, grid)


def _html(layers: Sequence[Layer], data: dict[str, Any], step: int, grid: Oriented) -> str:
    notes = ["Press or tap a cut, or move with the arrow keys and page up and down; L, R, A, P are the sides."]
    if step > 1:
        ordinal = {2: "second", 3: "third"}.get(step, f"{step}th")
        notes.append(f"To keep the page small, every {ordinal} voxel is shown here; the files have all.")
    notes.append(f"{tilt_note(grid).capitalize()}." if tilt_note(grid) else "")
    options = "".join(f'<option value="{k}">{escape(layer.name)}</option>' for k, layer in enumerate(layers))
    block = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = [
        '<details class="viewer"><summary>Open the slice viewer</summary><div class="controls">',
        f'<label>map <select data-part="layer">{options}</select></label>',
        '<label>go to <select data-part="peak"></select></label>',
        '<label>show from <input data-part="cut" type="range" min="0" max="1" step="any" value="0"></label></div>',
        '<div class="planes" data-part="planes"></div><p><span data-part="where" aria-live="polite"></span></p>',
        '<canvas class="bar" data-part="bar" width="416" height="16" role="img" aria-label="colour bar"></canvas>',
        *('<div class="ends">', *(f'<span data-part="{end}"></span>' for end in ("low", "shown", "high")), "</div>"),
        f'<p class="note">{escape(" ".join(filter(None, notes)))}</p>',
        "<noscript><p>The viewer needs JavaScript; the pictures of this page do not.</p></noscript>",
        f'<script type="application/json">{block}</script></details>',
    ]
    return "\n".join(parts)


def _described(
    layer: Layer, largest: float, packed: str, affine: NDArray[np.float64], shape: tuple[int, ...]
) -> dict[str, Any]:
    inverse = np.linalg.inv(affine)
    peaks = []
    for name, mm in layer.peaks.items():
        voxel = np.rint(inverse[:3, :3] @ np.asarray(mm, np.float64) + inverse[:3, 3])
        peaks.append({"name": name, "voxel": np.clip(voxel, 0, np.array(shape) - 1).astype(int).tolist()})
    return {
        "what": layer.what,
        "largest": largest,
        "cut": float(layer.cut),
        "signed": layer.signed,
        "values": packed,
        "peaks": peaks,
    }


def _window(inside: NDArray[np.bool_]) -> tuple[slice, ...]:
    found = np.nonzero(inside)
    return tuple(
        slice(max(0, int(where.min()) - _MARGIN), int(where.max()) + _MARGIN + 1) if len(where) else slice(0, n)
        for where, n in zip(found, inside.shape, strict=True)
    )


def _shades(grey: NDArray[np.float64], limits: tuple[float, float]) -> bytes:
    low, high = limits
    share = (grey - low) / max(high - low, 1e-12)
    return np.clip(share * 255, 0, 255).astype(np.uint8).tobytes()


def _packed_values(values: NDArray[np.float64], largest: float) -> str:
    """16 bits a voxel, 0 for nothing alone; high bytes first, then low ones: so they pack better."""
    steps = np.rint(values / largest * _STEPS)
    steps[(steps == 0) & (values != 0)] = 1
    words = steps.astype(">i2").reshape(-1).view(np.uint8)
    return _packed(words[0::2].tobytes() + words[1::2].tobytes())


def _packed(raw: bytes) -> str:
    return base64.b64encode(gzip.compress(raw, compresslevel=9, mtime=0)).decode("ascii")


def _rgb(colour: str) -> list[int]:
    return [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
