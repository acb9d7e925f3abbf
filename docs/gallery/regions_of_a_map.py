"""
Regions of a t map
==================

From a statistical map to separate regions: threshold it, take what is connected, leave
out what is small. The map is the motor contrast (left against right) that comes with
nilearn.
"""

# %%
# Two thresholds
# --------------
# The threshold can be a value, or a percentile of the voxels. Both signs are kept, and
# never make one region together; ``two_sided=False`` keeps one. ``min_size_mm3`` is the
# smallest volume that counts. A component with several peaks is split between them by a
# random walker, if asked for by ``seeds="local-maxima"``.

import matplotlib.pyplot as plt
from nilearn import plotting

import gpuroi
from gpuroi.demo_data import motor_map_path
from gpuroi.nilearn import new_img_like

motor_map = motor_map_path()
by_value = gpuroi.regions(
    motor_map, threshold=3.0, min_size_mm3=1500, seeds="local-maxima"
)
by_percentile = gpuroi.regions(
    motor_map, threshold="97%", min_size_mm3=1500, seeds="local-maxima"
)

# %%
# The percentile is one of all voxels, those of the background too; with ``mask=`` of
# those inside. In the table are sizes, peaks and centres:

print(by_percentile.settings["cutoff"])
by_percentile.table.round(1)

# %%
# Each region in its own colour
# -----------------------------

colours = plt.colormaps["Dark2"].colors
fig, axes = plt.subplots(2, 1, figsize=(9, 5.5))
for ax, result in zip(axes, (by_value, by_percentile), strict=True):
    display = plotting.plot_stat_map(
        motor_map,
        axes=ax,
        display_mode="z",
        cut_coords=[-24, 16, 48, 60],
        threshold=1,
        black_bg=False,
    )
    for number in result.table["id"]:
        region = new_img_like(result.atlas, result.labels == number)
        display.add_contours(
            region, levels=[0.5], colors=[colours[number - 1]], linewidths=2.5
        )
    ax.set_title(
        f"{result.counts['regions']} regions, {result.settings['rule']}", loc="left"
    )
plt.show()

# %%
# What lies in the regions can be measured in other images on the same grid:
# :func:`gpuroi.extract` takes a run, or a list of maps, and the atlas.
# ``by_value.save("motor")`` writes atlas, table, figures and report. From the shell:
#
# .. code-block:: console
#
#    $ gpuroi regions motor.nii.gz --threshold 97% --min-size-mm3 1500 --out motor/
