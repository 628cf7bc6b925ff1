"""The report of a training run: one HTML page that works offline and without scripts."""
