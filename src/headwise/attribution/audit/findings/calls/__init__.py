"""On the calls of the code: what they write, draw, switch and wait for."""
