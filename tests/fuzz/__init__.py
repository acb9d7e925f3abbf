"""Hostile inputs by the thousand: every reader gives the right answer or refuses with an error of ours.

`tests/test_fuzz.py` runs a few hundred of each kind. The long run is

    python -m tests.fuzz --inputs 50000 --out benchmarks/results/soak-DATE.json

and one input is looked at again by its number: `python -m tests.fuzz --target nifti --only 1234`.
Input `i` of a target is a function of the seed, the target and `i` alone.
"""
