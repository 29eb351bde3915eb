"""The room headwise.training."""
