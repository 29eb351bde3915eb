"""Which samples make a term: what calls bring by sample, and its rankings."""
