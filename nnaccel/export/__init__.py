"""Writes a trained model as a file for other programs: ONNX, one Python file with NumPy,
PyTorch."""
