"""The room headwise.criterion."""
