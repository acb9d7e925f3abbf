"""
Threshold an image
==================

Two-sided, one-sided, or the negative side alone: what stays of a t map at a threshold
of 2?
"""

# %%
# Three ways
# ----------
# ``two_sided=True`` keeps what is far from zero on either side. ``two_sided=False``
# keeps what is above a positive threshold, or below a negative one. The result says in
# words what was done.

import matplotlib.pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from nilearn import plotting

from gpuroi.demo_data import motor_map_path
from gpuroi.images import threshold

motor_map = motor_map_path()
ways = {
    "2, two-sided": threshold(motor_map, 2.0, two_sided=True),
    "2, one-sided": threshold(motor_map, 2.0, two_sided=False),
    "-2, one-sided": threshold(motor_map, -2.0, two_sided=False),
}
for name, result in ways.items():
    print(f"{name:14} {result.rule:10} {result.voxels_kept} voxels")

# %%
# Side by side
# ------------
# One scale for all three, so that a colour means the same in each. (The pinholes at the
# peak are zeros in the file.)

fig, axes = plt.subplots(1, 3, figsize=(11, 4))
fig.colorbar(ScalarMappable(Normalize(-8, 8), "RdBu_r"), ax=axes, label="t")
for ax, (name, result) in zip(axes, ways.items(), strict=True):
    plotting.plot_glass_brain(
        result.image,
        axes=ax,
        display_mode="z",
        plot_abs=False,
        threshold=1,
        vmin=-8,
        vmax=8,
        cmap="RdBu_r",
        colorbar=False,
    )
    ax.set_title(name)
plt.show()

# %%
# Clusters and percentiles
# ------------------------
# Small clusters go with ``cluster_threshold`` (voxels) or ``min_size_mm3``; a threshold
# may be a percentile.

result = threshold(motor_map, "95%", min_size_mm3=1500)
display = plotting.plot_stat_map(
    result.image,
    cut_coords=[-20, 15, 50, 65],
    display_mode="z",
    black_bg=False,
    title="95 %, clusters >= 1500 mm3",
)
print(result.rule)
plt.show()

# %%
# Coming from nilearn: :func:`gpuroi.nilearn.threshold_img` takes nilearn's arguments
# and returns an image.
