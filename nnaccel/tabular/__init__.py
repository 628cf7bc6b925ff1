"""Converts tables to matrices and back, chooses defaults, and trains, applies and saves models of
tables."""
