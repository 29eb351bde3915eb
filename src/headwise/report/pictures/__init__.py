"""Held-out pictures and the samples that make each term: photographs with outlines, maps beside targets, strips."""
