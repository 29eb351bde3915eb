"""What a number adds, from its graph alone: how far a sum goes, with which factors, and from which outputs."""
