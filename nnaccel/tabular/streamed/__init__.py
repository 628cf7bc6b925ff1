"""Tables larger than memory: two passes over the rows, which leave a file to train on."""
