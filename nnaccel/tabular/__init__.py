"""A table to a matrix and back, the defaults, and the model of a table."""
