"""Voxels that are the largest of the box around them."""

from __future__ import annotations

import numba as nb

__all__ = ["box_maxima"]


@nb.njit(cache=True, nogil=True)
def box_maxima(image, above, half, out, start, stop):  # type: ignore[no-untyped-def]
    """Set `out` where `image` is > `above` and no voxel of the box is larger, for planes start..stop.

    The box is `half[axis]` voxels to each side, cut off at the edge of the volume. Returns how many voxels were looked
    at, or -1 as soon as these are more than 60 times the volume: equal values over a large area, for which a separable
    filter is faster.
    """
    nx, ny, nz = image.shape
    most = 60 * image.size
    looked = 0
    for x in range(start, stop):
        for y in range(ny):
            for z in range(nz):
                value = image[x, y, z]
                if not value > above:
                    continue
                # The nearest first: most voxels have a larger neighbour.
                if z + 1 < nz and half[2] and image[x, y, z + 1] > value:
                    continue
                if z > 0 and half[2] and image[x, y, z - 1] > value:
                    continue
                largest = True
                for i in range(max(0, x - half[0]), min(nx, x + half[0] + 1)):
                    for j in range(max(0, y - half[1]), min(ny, y + half[1] + 1)):
                        for k in range(max(0, z - half[2]), min(nz, z + half[2] + 1)):
                            looked += 1
                            if image[i, j, k] > value:
                                largest = False
                                break
                        if not largest:
                            break
                    if not largest:
                        break
                out[x, y, z] = largest
                if looked > most:
                    return -1
    return looked
