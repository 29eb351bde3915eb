"""The room headwise.attribution."""
