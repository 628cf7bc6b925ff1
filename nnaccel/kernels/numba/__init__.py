"""Numba beside NumPy: fused elementwise passes, and whole epochs in compiled code."""
