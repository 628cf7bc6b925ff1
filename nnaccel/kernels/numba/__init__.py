"""Numba's kernels for NumPy arrays: fused elementwise passes, and whole epochs in compiled code."""
