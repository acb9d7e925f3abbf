"""
Screen a cohort
===============

A table of people, a map of each, a formula: where do patients differ from controls, and
where do values change with age? :func:`gpuroi.screen` goes from the table to corrected
results.
"""

# %%
# A cohort to try it on
# ---------------------
# :func:`gpuroi.demo` generates one. Every second person is a patient; patients have
# more in the right insula, and in the left precuneus values fall with age.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nibabel import Nifti1Image
from nilearn import plotting

import gpuroi

gpuroi.demo("demo", n_subjects=40, overwrite=True)
pd.read_table("demo/participants.tsv").head(4)

# %%
# Check first
# -----------
# Tables have gaps, maps lie on other grids, covariates say the same thing twice. The
# check finds what there is to be found before hours are spent, and reads every map
# once.

model = {
    "formula": "map ~ group + age",
    "contrasts": ["patient=group[T.patient]", "age"],
    "mask": "demo/mask.nii.gz",
}
print(gpuroi.check("demo/participants.tsv", **model).text)

# %%
# Screen
# ------
# A t test of each contrast at each voxel of the smoothed maps. 2000 permutations of the
# people correct for having looked everywhere: in voxels by the largest t anywhere, in
# clusters (of p < 0.001) by the largest size and mass.

result = gpuroi.screen(
    "demo/participants.tsv",
    **model,
    fwhm=8,
    cluster_p=0.001,
    n_permutations=2000,
    atlas="demo/atlas_dseg.nii.gz",
)
print(result.text)

# %%
# Who was left out, and why, is in ``result.participants.excluded``. The clusters of
# either contrast, with their corrected p-values and what they are called in the atlas:

found = pd.concat(
    {name: one.clusters for name, one in result.contrasts.items()}, names=["contrast"]
).query("p_mass_FWE <= 0.05")
found.drop(columns=["Sign", "Labels (%)"]).round(4).droplevel(1)

# %%
# Where
# -----
# The t values of the clusters whose familywise p is 0.05 or less. Red: more in
# patients, or with age. Blue: less.

fig, axes = plt.subplots(2, 1, figsize=(9, 5.4))
for ax, name in zip(axes, result.contrasts, strict=True):
    result.plot_glass_brain(name, axes=ax, title=name, vmin=-15, vmax=15)
plt.show()

# %%
# How sure
# --------
# What the largest t and the largest cluster are in data without an effect: a value for
# each permutation. The line is what was observed. The p-value is the share of
# permutations that reach it.

fig, axes = plt.subplots(2, 2, figsize=(9, 5), layout="constrained")
for row, (name, one) in zip(axes, result.contrasts.items(), strict=True):
    test = one.permutation
    for ax, which, label in zip(
        row,
        ("max_stat", "max_mass"),
        ("largest |t|", "largest cluster mass"),
        strict=True,
    ):
        null = np.abs(test.null[which])
        observed, reached = null[0], np.mean(null >= null[0])
        ax.hist(null[1:], bins=40, color="lightgrey")
        ax.axvline(observed, color="crimson")
        ax.annotate(
            f"observed {observed:.4g}, p = {reached:.2g} ",
            (observed, 0.85),
            xycoords=("data", "axes fraction"),
            ha="right",
            color="crimson",
        )
        ax.set(xlabel=label, ylabel=f"permutations\nof {name}")
        ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# What
# ----
# The mean of each map over the largest cluster of each contrast, and where these lie.


def largest(one):
    """Id of the cluster with the largest mass."""
    return one.clusters.loc[one.clusters["Mass"].abs().idxmax(), "Cluster ID"]


patient, age = result.contrasts.values()
people = result.participants.table.set_index("participant_id")
insula, precuneus = (
    one.cluster_means.set_index("participant_id")[f"cluster-{largest(one)}"]
    for one in (patient, age)
)

fig, (box, scatter) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
groups = [insula[people["group"] == name] for name in ("control", "patient")]
box.boxplot(groups, tick_labels=["control", "patient"], widths=0.5, showfliers=False)
for place, values in enumerate(groups, start=1):
    beside = place + np.linspace(-0.12, 0.12, len(values))
    box.plot(beside, values, "o", alpha=0.5, color="tab:red")
box.set(title="right insula", ylabel="mean of the cluster")
years = people["age"].astype(float)
scatter.plot(years, precuneus, "o", alpha=0.6, color="tab:blue")
scatter.plot(years, np.poly1d(np.polyfit(years, precuneus, 1))(years), color="black")
scatter.set(title="left precuneus", xlabel="age, years")
plt.show()

# %%
# .. warning::
#
#    These plots show that no single person makes the effect. They do not show how large
#    it is: the clusters were chosen *because* groups differ there, so that the
#    difference in them is too large, and a test of it would be circular. The size of an
#    effect needs other people, or regions that were named before: ``result.roi_means``
#    has the means over the atlas.
#
# Where the cluster lies, in slices, with all of the t map behind it:

t_map = Nifti1Image(result.volume(patient.glm.statistic, fill=0), result.affine)
cluster = Nifti1Image(
    (patient.labels == largest(patient)).astype(np.int8), result.affine
)

fig = plt.figure(figsize=(9, 2.6))
display = plotting.plot_stat_map(
    t_map,
    figure=fig,
    display_mode="z",
    cut_coords=[-9, -3, 3, 9, 15],
    threshold=2,
    black_bg=False,
)
display.add_contours(cluster, levels=[0.5], colors="black", linewidths=2)
plt.show()

# %%
# ``result.save("screening")`` writes maps, tables, figures and a report with a methods
# text; :doc:`/screening` goes through all of it. From the shell:
#
# .. code-block:: console
#
#    $ gpuroi screen demo/participants.tsv --formula 'map ~ group + age' \
#          --contrast 'patient=group[T.patient]' --contrast age \
#          --mask demo/mask.nii.gz --fwhm 8 --cluster-p 0.001 \
#          --atlas demo/atlas_dseg.nii.gz --out screening/
