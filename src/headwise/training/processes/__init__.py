"""The processes of a run: who takes what, what they agree on, how they learn of signals and of one another's end."""
