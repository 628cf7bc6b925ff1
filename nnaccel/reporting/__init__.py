"""The report of a training run: one HTML page that needs neither a network nor a script."""
