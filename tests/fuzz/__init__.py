"""Damaged tables and forged model files in great numbers: refused in words, or of use."""
