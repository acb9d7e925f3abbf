"""
Cluster voxels into parcels
===========================

A run has tens of thousands of voxels, and neighbours tell much the same story.
Clustering makes parcels of them, and the mean of each parcel is a compressed run: here
2000 numbers a volume instead of 36 162.
"""

# %%
# The compressed run
# ------------------
# Ward's method merges neighbours, so that parcels are connected. :func:`gpuroi.demo`
# generates the run.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from nilearn import plotting

import gpuroi
from gpuroi.nilearn import mean_img, new_img_like

gpuroi.demo("demo", overwrite=True)
run, mask = "demo/bold.nii.gz", "demo/mask.nii.gz"
result = gpuroi.parcellate(run, mask=mask, method="ward", n_parcels=2000)
print(
    f"{result.quality['explained_variance']:.1%} of the variance between voxels is kept"
)

# %%
# The first volume as it was, and with the mean of its parcel in every voxel:

original = new_img_like(result.labels_img, result.first_volume)
compressed = new_img_like(result.labels_img, result.compressed(slice(1))[0])
slices = {
    "display_mode": "z",
    "cut_coords": [-30, -10, 10, 30, 50],
    "annotate": False,
    "colorbar": False,
}

fig, axes = plt.subplots(2, 1, figsize=(9, 5))
for ax, shown, title in zip(
    axes, (original, compressed), ("original", "2000 parcels"), strict=True
):
    plotting.plot_epi(shown, axes=ax, vmin=2000, vmax=6000, **slices)
    ax.set_title(title, loc="left")
plt.show()

# %%
# Parcels by time course
# ----------------------
# Parcels of the values themselves follow the brightness of the image. ``standardize``
# makes them follow the shape of the time course alone, and ``fwhm_mm`` smooths before
# learning (signals are always those of the run as it is).
#
# Ward makes a tree, which can be cut anywhere: 100 parcels cost nothing once there are
# 2000.

ward = gpuroi.parcellate(
    run, mask=mask, method="ward", n_parcels=2000, fwhm_mm=6, standardize=True
)
coarse = ward.parcellation.with_n_parcels(100)

# %%
# K-means knows nothing of neighbours, and its parcels come in pieces
# (``split_pieces=True`` makes each a parcel):

kmeans = gpuroi.parcellate(
    run, mask=mask, method="kmeans", n_parcels=100, fwhm_mm=6, standardize=True
)
print(f"{kmeans.counts['parcels_in_pieces']} of 100 parcels are in several pieces")

# %%
# Neighbours have neighbouring numbers, so that colours are drawn at random to tell them
# apart; the seed keeps them.

colours = ListedColormap(np.random.default_rng(0).uniform(0.1, 1, (2000, 3)))
background = mean_img(run)
parcellations = {
    "Ward, 2000": ward.labels_img,
    "Ward, 100": coarse.labels_img_,
    "K-means, 100": kmeans.labels_img,
}

fig, axes = plt.subplots(3, 1, figsize=(9, 7.5))
for ax, (title, labels) in zip(axes, parcellations.items(), strict=True):
    plotting.plot_roi(
        labels, bg_img=background, axes=ax, cmap=colours, alpha=0.9, **slices
    )
    ax.set_title(title, loc="left")
plt.show()

# %%
# In a pipeline of scikit-learn, :class:`gpuroi.parcels.Parcellation` has ``fit``,
# ``transform`` (the mean of each parcel) and ``inverse_transform``;
# :class:`gpuroi.nilearn.Parcellations` takes nilearn's arguments. From the shell:
#
# .. code-block:: console
#
#    $ gpuroi parcellate demo/bold.nii.gz --mask demo/mask.nii.gz \
#          --method ward --n-parcels 2000 --out parcels/
