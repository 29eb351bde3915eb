"""The room headwise.recipes."""
