"""Kernels for NumPy: buffers that are used again, blocks that stay in the cache, few calls."""
