"""
Regions from a contrast
=======================

A run in which somebody looked at faces and at houses: which regions tell the two apart,
and what did they do? :func:`gpuroi.roi` goes from the run to the regions and their
signals in one call.
"""

# %%
# A run to try it on
# ------------------
# :func:`gpuroi.demo` generates one, with two regions that answer to faces and two that
# answer to houses. Labels name the condition of each volume. Events (BIDS, in seconds)
# will do as well.

import matplotlib.pyplot as plt
import pandas as pd
from nilearn import plotting

import gpuroi

gpuroi.demo("demo", overwrite=True)
pd.read_table("demo/labels.tsv").value_counts("labels")

# %%
# One call
# --------
# Smooth, test every voxel, threshold, keep what lies in the mask, dilate, label,
# measure.

result = gpuroi.roi(
    "demo/bold.nii.gz",
    "demo/labels.tsv",
    "face-house",
    fwhm=6.0,
    threshold=5.0,
    mask="demo/mask.nii.gz",
    min_region_size=800,
)
result.table.round(1)

# %%
# Where they are
# --------------
# The t map, and the outlines of the regions. Faces minus houses: regions that prefer
# faces are positive.

display = plotting.plot_stat_map(
    result.image("t"),
    bg_img=result.image("mean"),
    threshold=4,
    cut_coords=[-19, -16, -8, -3],
    display_mode="z",
    title="faces - houses, t",
)
display.add_contours(result.atlas, levels=[0.5], colors="white")
plt.show()

# %%
# What they did
# -------------
# One signal for each region: the mean of the smoothed data. Condition by condition, as
# per cent of rest:

signals = result.signals.set_index("condition").filter(like="region")
change = 100 * (signals / signals.loc["rest"].mean() - 1)

fig, axes = plt.subplots(
    1, len(result.table), figsize=(10, 3), sharey=True, layout="constrained"
)
for ax, region in zip(axes, change, strict=True):
    ax.boxplot(
        [change.loc[c, region] for c in ("face", "house", "object")],
        tick_labels=["face", "house", "object"],
    )
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.set_title(region)
axes[0].set_ylabel("change from rest, %")
plt.show()

# %%
# The regions were selected for this difference, so the difference is no news: test them
# on other data, or for another question (here: objects).
#
# ``result.save("roi")`` writes the atlas, tables, maps, figures and a report. From the
# shell:
#
# .. code-block:: console
#
#    $ gpuroi roi demo/bold.nii.gz --conditions demo/labels.tsv --contrast face-house \
#          --mask demo/mask.nii.gz --min-region-size 800 --out roi/
