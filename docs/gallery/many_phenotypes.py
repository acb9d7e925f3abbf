"""
Many phenotypes
===============

A dozen questionnaires, and a map of each person: which of them are seen in the brain,
and where? :func:`gpuroi.screen` tests each against each voxel, beside the same
covariates, in one product, and corrects for all of it.
"""

# %%
# A cohort with questionnaires
# ----------------------------
# Forty maps by :func:`gpuroi.demo`, and twelve made-up scores. Ten are noise. Two are
# not: ``empathy`` follows what a map has in the right insula, ``planning`` falls with
# what it has in the left precuneus. A few people have not filled in everything.

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pandas as pd
from nilearn import plotting

import gpuroi

gpuroi.demo("demo", n_subjects=40, overwrite=True)
people = pd.read_table("demo/participants.tsv")
planted = gpuroi.extract(
    [f"demo/{path}" for path in people["map"]], "demo/cohort_truth.nii.gz"
)
insula, precuneus = planted.to_numpy()[:, -2:].astype(float).T

rng = np.random.default_rng(4)
names = (
    "anxiety empathy humour impulse memory mood "
    "pain patience planning sleep thrill trust"
)
scores = pd.DataFrame(rng.normal(size=(40, 12)), columns=names.split())
scores["empathy"] += 15 * insula
scores["planning"] -= 25 * precuneus
scores = scores.round(1).mask(rng.random(scores.shape) < 0.02)
people.join(scores.add_prefix("q_")).to_csv(
    "demo/questionnaires.tsv", sep="\t", index=False, na_rep="n/a"
)

# %%
# All of them at once
# -------------------
# Which columns are phenotypes is said by name, or by a pattern. The formula has what
# they are tested beside. Of each phenotype the maxima, the largest hundred values and a
# histogram are kept, and the maps of those that are asked for: 500 questionnaires and
# 200 000 voxels would otherwise be 100 million numbers.

result = gpuroi.screen(
    "demo/questionnaires.tsv",
    phenotypes=["q_*"],
    phenotype_maps=["q_empathy", "q_planning"],
    formula="map ~ group + age",
    mask="demo/mask.nii.gz",
    fwhm=8,
    n_permutations=1000,
)
print(result.text)

# %%
# One row for each: the largest t anywhere, and where. ``p_FWE`` is corrected for the
# voxels, ``p_FWE_all`` for the voxels and the dozen of phenotypes: this is the one to
# look at, unless only one questionnaire was asked about.

table = result.table.sort_values("p_FWE_all")
table.drop(columns=["voxels", "voxels_left_out", "p"]).round(3)

# %%
# Which of them
# -------------
# Each dot is a phenotype; the boxes are what permutations give for it, up to p = 0.05.

fig, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
order = table["phenotype"]
ax.boxplot(
    result.null[order].iloc[1:],
    tick_labels=order.str.removeprefix("q_"),
    whis=(0, 95),
    showfliers=False,
    patch_artist=True,
    boxprops={"facecolor": "gainsboro", "edgecolor": "grey"},
    medianprops={"color": "grey"},
)
sure = table["p_FWE_all"] <= 0.05
colours = np.where(sure, "crimson", "black")
ax.scatter(np.arange(1, 13), table["max_stat"].abs(), c=colours, zorder=3)
limit = result.null.iloc[1:].max(axis=1).quantile(0.95)
ax.axhline(limit, color="crimson", linestyle="dashed")
ax.annotate(
    "p = 0.05, all voxels and phenotypes ",
    (1, limit),
    (0, 3),
    xycoords=("axes fraction", "data"),
    textcoords="offset points",
    ha="right",
    color="crimson",
)
ax.set_ylabel("largest |t|")
ax.spines[["top", "right"]].set_visible(False)
ax.tick_params(axis="x", rotation=30)
plt.show()

# %%
# More than chance?
# -----------------
# The p-values of all voxels, from the histograms. Without an effect they follow the
# diagonal; where they leave it, more voxels are extreme than chance makes.

fig, ax = plt.subplots(figsize=(5, 4.6), layout="constrained")
named = {"q_empathy": "crimson", "q_planning": "tab:blue"}
for name, line in result.qq.groupby("phenotype"):
    ax.plot(
        line["log10p_expected"],
        line["log10p"],
        color=named.get(name, "silver"),
        zorder=3 if name in named else 2,
        label=name.removeprefix("q_") if name in named else None,
    )
ax.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle="dotted")
ax.set(xlabel="expected, -log10 p", ylabel="observed, -log10 p")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Where
# -----
# The maps that were asked for, beyond t = 4.5 of either sign: below the line, to see
# what lies around the largest.

fig, axes = plt.subplots(2, 1, figsize=(9, 5.4))
for ax, (name, t) in zip(axes, result.found.maps.items(), strict=True):
    plotting.plot_glass_brain(
        nibabel.Nifti1Image(result.volume(t, fill=0), result.affine),
        axes=ax,
        threshold=4.5,
        display_mode="lyrz",
        plot_abs=False,
        colorbar=True,
        vmin=-10,
        vmax=10,
        title=name.removeprefix("q_"),
    )
plt.show()

# %%
# Hundreds of phenotypes take the same lines: 500 of them with 1000 people and 235 000
# voxels, without permutations, are seconds on two cores (:doc:`/benchmarks`). People
# without a value are missing in the test of that phenotype alone. From the shell:
#
# .. code-block:: console
#
#    $ gpuroi screen demo/questionnaires.tsv --phenotypes 'q_*' \
#          --phenotype-maps q_empathy q_planning --formula 'map ~ group + age' \
#          --mask demo/mask.nii.gz --fwhm 8 --n-perm 1000 --out phenotypes/
