"""The processes of a run: how they learn of signals, and of one another's end."""
