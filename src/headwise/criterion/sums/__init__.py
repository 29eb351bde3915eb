"""The arithmetic of a call: losses and counts called, their sums combined to the total."""
