"""Every head its own loss, and one set of books."""
