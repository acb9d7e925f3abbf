#!/usr/bin/env bash
# Draw the pictures of the README again, from generated data. Needs `gpuroi` on the path, with the extra `report`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

gpuroi demo "$work/demo"
gpuroi roi "$work/demo/bold.nii.gz" --conditions "$work/demo/labels.tsv" --contrast face-house \
    --mask "$work/demo/mask.nii.gz" --min-region-size 800 --out "$work/roi"
cp "$work/roi/figures/regions.png" roi_regions.png
gpuroi screen "$work/demo/participants.tsv" --formula 'map ~ group + age' --contrast 'patient=group[T.patient]' \
    --mask "$work/demo/mask.nii.gz" --cluster-p 0.001 --tfce --atlas "$work/demo/atlas_dseg.nii.gz" --out "$work/screening"
cp "$work/screening/figures/contrast-patient_glass.png" screen_glass.png
