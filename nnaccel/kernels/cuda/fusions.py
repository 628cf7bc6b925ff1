"""Switches of the optimisations that save a launch or overlap one with other work.

An optimisation that only a GPU can test is off until a GPU has tested it. `python bench/gpu/gpu.py
--first` trains with each switch off and on, compares the losses with those of the definitions, and
times a step.
"""

# cuBLASLt's epilogue applies the derivative of ReLU in the product that computes dA, and sums db.
RELU_IN_PRODUCT = False

# One kernel computes a narrow output layer, its softmax cross-entropy, dZ and db.
NARROW_LOSS = True

# A second branch of a graph updates the weights of a layer during the products of the layers below.
UPDATE_BESIDE = False

# The kernel that ends a step of a graph also gathers the rows of the next minibatch.
NEXT_ROWS = True
