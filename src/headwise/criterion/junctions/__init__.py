"""Where outputs are handed out and gradients come back, and what is asked of whoever keeps the books."""
