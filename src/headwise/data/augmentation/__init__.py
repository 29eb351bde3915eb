"""Training pictures changed at random, their annotations with them."""
