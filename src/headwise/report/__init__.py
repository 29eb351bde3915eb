"""The room headwise.report."""
