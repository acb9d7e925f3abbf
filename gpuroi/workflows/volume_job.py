"""What every operation on image files shares: open, work in parts that fit, write with a record of what was done."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from gpuroi.backends import get_backend
from gpuroi.backends.memory import map_chunks, parse_bytes
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from gpuroi.backends import Array
    from gpuroi.images.read import Image

__all__ = ["VolumeJob", "VolumesResult", "holds_numbers", "refuse_missing"]


@dataclass(frozen=True)
class VolumesResult:
    """What an operation on files did.

    Attributes
    ----------
    paths : tuple of Path
        The images written; beside each lies a sidecar `.json` with inputs, settings and versions.
    device : str
        Where it ran: "cpu", "cuda:0".
    n_volumes : int
        Volumes read.
    counts : dict
        What was found, such as the number of components.
    timings : dict of str to float
        Seconds by stage.
    """

    paths: tuple[Path, ...]
    device: str
    n_volumes: int
    counts: dict[str, Any]
    timings: dict[str, float]


class VolumeJob:
    """The files, the device and the records of one call.

    Outputs that cannot be written are refused here, before any work is done.

    Parameters
    ----------
    workflow : str
        Name of the operation, for the sidecar.
    sources : image or sequence of images
        All on one grid.
    outs : sequence of path
    mask : image, optional
    device, memory_limit, overwrite
        As users give them.

    Attributes
    ----------
    images : list of Image
    inside : bool array on the device, shape (X, Y, Z), or None
    dtype : numpy.dtype
        float64 where an image is stored in a type whose numbers float32 would round, else float32.

    Raises
    ------
    UsageError, DataError, DeviceError, OutputError
    """

    def __init__(
        self,
        workflow: str,
        sources: Any,
        outs: Sequence[str | Path],
        *,
        mask: Any = None,
        device: str = "auto",
        memory_limit: int | str | None = None,
        overwrite: bool = False,
    ) -> None:
        from gpuroi.images.grid import check_same_grid
        from gpuroi.images.masks import read_mask
        from gpuroi.images.read import open_image, open_images

        self.workflow = workflow
        self.limit = None if memory_limit is None else parse_bytes(memory_limit)
        self.overwrite = overwrite
        self.outs = _checked_outputs(outs, overwrite=overwrite)
        self.backend = get_backend(device)
        self.watch = Stopwatch()
        with self.watch("open"):
            self.images: list[Image] = open_images(sources)
            check_same_grid(self.images[1:], reference=self.images[0])
            mask_image = None if mask is None else open_image(mask)
            self.mask_name = None if mask_image is None else mask_image.name
            self._inputs = [_path_or_image(i) for i in [*self.images, mask_image] if i is not None]
            _refuse_inputs(self.outs, self._inputs)
            inside = None if mask_image is None else read_mask(mask_image, self.images[0])
        with self.backend.activate():
            self.inside = None if inside is None else self.backend.asarray(inside)
        wide = any(i.stored_dtype.kind in "fiu" and i.stored_dtype.itemsize >= _wide_from(i) for i in self.images)
        self.dtype = np.dtype(np.float64 if wide else np.float32)

    def peak_bytes(self, op: str, dtype: DTypeLike | None = None, **how: Any) -> int:
        """Return what an op of `gpuroi.ops` takes for one volume of the first image."""
        from gpuroi.ops import peak_bytes

        masked, device = self.inside is not None, self.backend.device
        shape = (1, *self.images[0].shape)
        return peak_bytes(op, shape, self.dtype if dtype is None else dtype, device=device, masked=masked, **how)

    def each_volume(
        self, op: Callable[[Array, slice], Array], out_dtype: DTypeLike | None = None, *, bytes_each: int
    ) -> NDArray[Any]:
        """Apply `op` to the volumes of the first image, as many at once as fit.

        Parameters
        ----------
        op : callable
            Takes `(n, X, Y, Z)` on the device and which volumes these are, returns the same shape.
        out_dtype : dtype, optional
            Of the result; by default that of the job.
        bytes_each : int
            Peak bytes of `op` on the device for one volume, beside the volume itself.

        Returns
        -------
        array, shape (n_volumes, X, Y, Z)
            On the host, each volume in the order of the disk.

        Raises
        ------
        DataError
            If all values of the image are NaN.
        """
        image, backend = self.images[0], self.backend
        result = volumes_on_host(image.n_volumes, image.shape, self.dtype if out_dtype is None else out_dtype)

        def work(part: slice) -> bool:
            with self.watch("read"):
                host = image.read(part.start, part.stop, dtype=self.dtype)
            with self.watch(self.workflow), backend.activate():
                result[part] = backend.to_numpy(op(backend.asarray(host), part))
            return holds_numbers(host)

        volume = math.prod(image.shape) * self.dtype.itemsize
        if not any(map_chunks(work, image.n_volumes, volume + bytes_each, backend=backend, limit=self.limit)):
            refuse_missing(image)
        image.release()
        return result

    def save(
        self,
        results: Sequence[NDArray[Any]],
        settings: Mapping[str, Any],
        counts: Mapping[str, Any],
        *,
        contents: Sequence[str],
        more_inputs: Sequence[Any] = (),
    ) -> VolumesResult:
        """Write one image per output, each with its sidecar.

        Parameters
        ----------
        results : sequence of arrays, (X, Y, Z) or (n, X, Y, Z)
            A batch of one is written as 3-D if the first image is.
        settings, counts : mapping
            For the sidecar.
        contents : sequence of str
            What each output holds, for its sidecar.
        more_inputs : sequence
            Files beside the images and the mask that the result depends on.

        Returns
        -------
        VolumesResult
        """
        from gpuroi.images.write import save_image
        from gpuroi.workflows.provenance import describe_inputs, provenance

        image = self.images[0]
        record = provenance(
            self.workflow,
            settings={**settings, "mask": self.mask_name},
            inputs=describe_inputs([*self._inputs, *more_inputs]),
            counts=counts,
            timings=self.watch.seconds,
            device=self.backend.device,
        )
        for path, result, content in zip(self.outs, results, contents, strict=True):
            data = result[0] if result.ndim == 4 and not image.is_4d else result
            with self.watch("write"):
                sidecar = {"content": content, **record}
                save_image(
                    path, data, image.affine, like=image, dtype=data.dtype, sidecar=sidecar, overwrite=self.overwrite
                )
        return VolumesResult(
            paths=tuple(self.outs),
            device=self.backend.device,
            n_volumes=sum(i.n_volumes for i in self.images),
            counts=dict(counts),
            timings=dict(self.watch.seconds),
        )


def volumes_on_host(n: int, shape: tuple[int, int, int], dtype: DTypeLike) -> NDArray[Any]:
    """Return an empty array (n, X, Y, Z) whose volumes lie in memory as NIfTI stores them, x fastest."""
    return np.empty((n, *shape[::-1]), dtype).transpose(0, 3, 2, 1)


def holds_numbers(volumes: NDArray[Any]) -> bool:
    """Return whether any value of a batch (n, X, Y, Z) is not NaN; one volume with numbers ends the search."""
    return any(not np.isnan(volume).all() for volume in volumes)


def refuse_missing(image: Image) -> NoReturn:
    """Raise a `DataError` about an image that holds nothing but NaN."""
    raise DataError(f"{image.name}: all values are NaN", "leave this image out, or mend it")


def _wide_from(image: Image) -> int:
    """Bytes from which on a stored type does not fit into float32."""
    return 8 if image.stored_dtype.kind == "f" else 4


def _checked_outputs(outs: Sequence[str | Path], *, overwrite: bool) -> list[Path]:
    """Try now what will be done at the end, so that a result is not lost for its name."""
    from gpuroi.images.write import staged_file

    paths = [Path(out).expanduser() for out in outs]
    for path in paths:
        stem = re.fullmatch(r"(.+)\.nii(\.gz)?", path.name, re.IGNORECASE)
        if stem is None:
            raise OutputError(f"{path}: images are written as NIfTI", "name it .nii or .nii.gz")
        for name in (path, path.with_name(f"{stem[1]}.json")):
            with suppress(_TriedError), staged_file(name, overwrite=overwrite):
                raise _TriedError
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"two outputs have the same name: {paths[0]}", "give each a name of its own")
    return paths


class _TriedError(Exception):
    """Ends a trial before anything is put in place."""


def _path_or_image(image: Image) -> Path | Image:
    path = Path(image.name).expanduser()
    return path if path.is_file() else image


def _refuse_inputs(outs: Sequence[Path], inputs: Sequence[Path | Image]) -> None:
    for out in outs:
        for given in inputs:
            if isinstance(given, Path) and out.exists() and out.samefile(given):
                raise UsageError(f"{out} is an input too, and would be replaced by the result", "choose another name")
