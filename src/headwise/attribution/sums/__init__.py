"""Whether the gradient of the sum is the sum of the gradients, and what breaks it."""
