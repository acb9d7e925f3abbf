"""Generated runs for tests of `gpuroi.roi`: a head, and blobs that tell faces from houses."""

from __future__ import annotations

import nibabel
import numpy as np

OBLIQUE = np.array([[2.9, 0.4, 0.0, -30.0], [-0.5, 3.4, 0.3, 12.0], [0.1, -0.2, 4.1, 5.0], [0.0, 0.0, 0.0, 1.0]])
STRAIGHT = np.diag([-3.0, 3.0, 3.5, 1.0])
BLOCK = ["rest"] * 3 + ["face"] * 5 + ["rest"] * 2 + ["house"] * 5


def make_run(seed=0, *, shape=(14, 12, 9), n_blocks=4, affine=STRAIGHT, dtype=np.int16, effect=60.0):
    """Return a run and its labels: noise around a head, and two blobs that tell faces from houses."""
    rng = np.random.default_rng(seed)
    names = BLOCK * n_blocks
    x, y, z = np.indices(shape)
    head = ((x - 6.5) / 6) ** 2 + ((y - 5.5) / 5.5) ** 2 + ((z - 4) / 4) ** 2 <= 1
    volumes = (1000 * head)[..., None] + head[..., None] * rng.normal(0, 30, (*shape, len(names)))
    for centre, sign in (((4, 4, 4), 1), ((9, 7, 5), -1), ((3, 9, 3), 0.7)):
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / 3.0)
        for i, name in enumerate(names):
            volumes[..., i] += effect * sign * blob * ((name == "face") - (name == "house")) * head
    volumes = np.rint(volumes) if np.issubdtype(dtype, np.integer) else volumes
    image = nibabel.Nifti1Image(volumes.astype(dtype), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], 2.5))
    return image, names
