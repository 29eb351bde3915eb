"""The folder of a run that trains: one run at a time, what it was called with, checkpoints that are whole."""
