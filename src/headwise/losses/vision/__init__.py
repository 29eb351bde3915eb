"""Losses of detectors and of text spotters: anchors, heat maps, embeddings, and values read at objects.

They are made of `dense`, read where objects are. Where the authors' code computes something else than their paper, a
``published_`` loss stands beside.
"""
