"""The room headwise.data."""
