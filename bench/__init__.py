"""Benchmarks of nnaccel: a package, so that its folders find each other from a checkout."""
