"""One step in numbers: the gradients of its losses and of its total, and what is meant."""
