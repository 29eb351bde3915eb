"""The room headwise.networks."""
