"""Faults by the dozen: `gpuroi screen` is killed, starved and lied to, and leaves the old or the new results, whole.

`tests/test_faults_screen.py` runs a few of each kind. The long run is

    python -m tests.soak --out benchmarks/results/soak-faults-DATE.json

What happens is a function of the seed and of how fast the machine is.
"""
