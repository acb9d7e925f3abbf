"""
Threshold a parcellated map
===========================

A map over an atlas has one value for each parcel. Which parcels stand out, and may one
be trusted more if its neighbours agree? Counting the voxels of the painted map does not
answer that: any large parcel is a large cluster. Counting parcels does.
"""

# %%
# A map, parcel by parcel
# -----------------------
# Any label image on the grid of the map will do: Schaefer's parcels, or Harvard and
# Oxford's. So that nothing has to be downloaded, this one is made here: K-means of the
# voxels' positions, 400 compact parcels.

import matplotlib.pyplot as plt
import nibabel
import numpy as np
from nilearn import plotting

import gpuroi
from gpuroi.demo_data import motor_map_path
from gpuroi.domains import VoxelGrid
from gpuroi.images import threshold
from gpuroi.nilearn import new_img_like
from gpuroi.parcels import kmeans

motor_map = nibabel.load(motor_map_path())
brain = VoxelGrid(motor_map.get_fdata() != 0)
positions = np.argwhere(brain.mask).T.astype(float)
atlas = new_img_like(motor_map, brain.to_volume(kmeans(positions, 400).labels + 1))

parcel_map = gpuroi.threshold_parcels(
    motor_map, atlas, summary="mean", threshold=0
).image

# %%
# Voxel-wise
# ----------
# The threshold of a painted map: at least 2, in clusters of at least 20 voxels. One
# parcel has about 110.

voxelwise = threshold(parcel_map, 2.0, cluster_threshold=20)

# %%
# Parcel-wise
# -----------
# More than 2, in clusters of at least 2 parcels that touch. Positive and negative
# parcels never join.

parcelwise = gpuroi.threshold_parcels(
    parcel_map, atlas, threshold=2.0, cluster_threshold=2
)
print(f"{len(parcelwise.kept)} parcels, isolated: {parcelwise.counts['isolated']}")
parcelwise.clusters.drop(columns="ids").round(2)

# %%
# The difference
# --------------
# Outlined in green: the isolated parcels, whose neighbours do not agree. The voxel
# count keeps them, as it would keep any parcel; the parcel count does not. An effect
# may be as small as one parcel, though: that is why they are reported.

dropped = new_img_like(
    atlas, (voxelwise.image.get_fdata() != 0) & (parcelwise.image.get_fdata() == 0)
)
maps = {
    "the map, by parcels": parcel_map,
    "voxel-wise: 20 voxels or more": voxelwise.image,
    "parcel-wise: 2 parcels or more": parcelwise.image,
}
fig, axes = plt.subplots(3, 1, figsize=(9, 8))
for ax, (title, shown) in zip(axes, maps.items(), strict=True):
    display = plotting.plot_stat_map(
        shown,
        axes=ax,
        display_mode="z",
        cut_coords=[-24, 2, 28, 48, 60],
        vmax=8,
        black_bg=False,
        annotate=False,
    )
    display.add_contours(dropped, levels=[0.5], colors="limegreen", linewidths=1.5)
    ax.set_title(title, loc="left")
plt.show()

# %%
# There is no p-value in this. Parcels are few and large, so that random field theory
# says nothing about them, but permutation does:
# :func:`gpuroi.inference.permutation_test` with ``domain=parcelwise.graph``. When it
# makes sense to count neighbours, and when not, is in :doc:`/parcels`. From the shell:
#
# .. code-block:: console
#
#    $ gpuroi threshold-parcels t.nii.gz --labels atlas_dseg.nii.gz --summary mean \
#          --threshold 2 --cluster-threshold 2 --out parcels/
