"""Tables larger than memory: two passes over the rows write a file to train on."""
