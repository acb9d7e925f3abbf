"""Kernels: numba loops for the CPU (`.py`) and CUDA source for the GPU (`.cu`), one pair of files per operation."""
