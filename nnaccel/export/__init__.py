"""A trained model as a file that others run: ONNX, one file of NumPy, PyTorch."""
