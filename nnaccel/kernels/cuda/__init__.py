"""CUDA through CuPy: fused kernels, cuBLASLt's products, CUDA graphs, one-launch epochs."""
