"""On the number that backward is called on: what it drops, doubles, weighs and cannot train."""
