"""The room headwise.coders."""
