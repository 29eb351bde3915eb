"""The room headwise.presets."""
