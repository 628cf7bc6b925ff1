"""CUDA through CuPy: fused kernels, cuBLASLt's products, graphs, and whole epochs in one launch."""
