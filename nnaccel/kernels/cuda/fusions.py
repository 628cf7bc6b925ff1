"""Ways to leave out a launch or to hide one. Each is a switch.

Those that rest on what only a GPU shows are off until one has shown it. `python bench/gpu/gpu.py
--first` trains both ways: it compares the losses with those of the definitions, and times a step.
"""

# The derivative of ReLU and the sum db, in the product that gives dA: by an epilogue of cuBLASLt.
RELU_IN_PRODUCT = False

# A narrow output layer with softmax cross-entropy, dZ and db, in one kernel.
NARROW_LOSS = True

# The update of a layer's weights on a second branch of a graph, beside the products below it.
UPDATE_BESIDE = False

# The rows of the next minibatch, in the kernel that ends a step of a graph.
NEXT_ROWS = True
