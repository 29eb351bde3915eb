"""The books of a script that knows nothing of Headwise, while it runs unchanged."""
