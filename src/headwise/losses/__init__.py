"""The room headwise.losses."""
