"""The definition: forward propagation, backpropagation and the update, in Array API alone."""
