"""Results in notebooks: a glass brain by nilearn, and a viewer of slices by niivue."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import HasCard
from gpuroi.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["HasMap", "ShownMap", "draw_regions", "show_in_niivue", "silhouette"]


@dataclass(frozen=True)
class ShownMap:
    """A map to look at.

    Attributes
    ----------
    volume : array, shape (X, Y, Z)
        0 and NaN are not shown.
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+.
    title : str
    threshold : float
        Smaller `abs(volume)` are not shown.
    background : array of shape (X, Y, Z), optional
        Shown in grey below the map in `view`.
    """

    volume: NDArray[Any]
    affine: NDArray[np.float64]
    title: str
    threshold: float = 0.0
    background: NDArray[Any] | None = None

    def plot_glass_brain(self, **options: Any) -> Any:
        """Draw the map through the whole brain; see `HasMap.plot_glass_brain`."""
        try:
            from nilearn.plotting import plot_glass_brain
        except ImportError:
            raise OutputError(
                "a glass brain needs nilearn and matplotlib, which are not installed", "pip install 'gpuroi[report]'"
            ) from None
        ours = {
            "title": self.title,
            "threshold": self.threshold or np.finfo(np.float32).tiny,  # nilearn shows zeros at a threshold of 0
            "display_mode": "lyrz",
            "colorbar": True,
            "plot_abs": False,
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "empty mask", UserWarning)  # nothing was found: an empty brain says so
            return plot_glass_brain(_image(self.volume, self.affine), **{**ours, **options})

    def view(self) -> Any:
        """Show the map in a widget of niivue; see `HasMap.view`."""
        largest = float(np.nanmax(np.abs(self.volume), initial=0.0))
        colours = {"colormap": "warm", "colormap_negative": "winter"}
        limits = {"cal_min": self.threshold or largest / 1e3, "cal_max": largest or 1.0}
        return show_in_niivue(self.affine, self.background, (self.title, self.volume, {**colours, **limits}))


class HasMap(HasCard):
    """A result with a map to look at; `_shown_map` says which."""

    def _shown_map(self) -> ShownMap:
        raise NotImplementedError

    def plot_glass_brain(self, **options: Any) -> Any:
        """Draw the map through the whole brain, with nilearn.

        Parameters
        ----------
        **options
            For `nilearn.plotting.plot_glass_brain`, in place of ours: `display_mode`, `output_file`, ...

        Returns
        -------
        nilearn display

        Raises
        ------
        OutputError
            If nilearn or matplotlib is not installed.
        """
        return self._shown_map().plot_glass_brain(**options)

    def view(self) -> Any:
        """Show the map in slices and in three dimensions, in a notebook, with niivue.

        Returns
        -------
        ipyniivue.NiiVue
            The widget; its attributes change what is shown.

        Raises
        ------
        OutputError
            If ipyniivue is not installed.
        """
        return self._shown_map().view()


def show_in_niivue(
    affine: NDArray[np.float64], background: NDArray[Any] | None, overlay: tuple[str, NDArray[Any], dict[str, Any]]
) -> Any:
    """Return a widget of niivue that shows a map or labels, over an image in grey where there is one.

    Parameters
    ----------
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+, of both.
    background : array, shape (X, Y, Z), or None
    overlay : (str, array of shape (X, Y, Z), dict)
        Name, values, and the options of `ipyniivue.Volume`.

    Raises
    ------
    OutputError
        If ipyniivue is not installed.
    """
    try:
        from ipyniivue import NiiVue
    except ImportError:
        raise OutputError(
            "the viewer needs ipyniivue, which is not installed", "pip install 'gpuroi[notebook]'"
        ) from None
    name, values, options = overlay
    volumes = [] if background is None else [_volume("background", background, affine) | {"colormap": "gray"}]
    widget = NiiVue()
    widget.load_volumes([*volumes, _volume(name, values, affine) | options])
    return widget


def draw_regions(labels: NDArray[Any], background: NDArray[Any], affine: NDArray[np.float64], path: Path) -> None:
    """Draw regions in colour over an image, as a PNG file."""
    from gpuroi.report.roi_figures import save_regions_picture

    save_regions_picture(labels, background, affine, path)


def silhouette(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a map holds a value: the background of pictures of a map that has none."""
    there: NDArray[np.bool_] = np.isfinite(values) & (values != 0)
    return there


def _volume(name: str, values: NDArray[Any], affine: NDArray[np.float64]) -> dict[str, Any]:
    return {"name": f"{name}.nii", "data": _image(values, affine).to_bytes()}


def _image(values: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """Return a map as an image in which what is missing is 0."""
    import nibabel

    make: Any = nibabel.Nifti1Image
    return make(np.nan_to_num(np.asarray(values, np.float32), nan=0.0, posinf=0.0, neginf=0.0), affine)
