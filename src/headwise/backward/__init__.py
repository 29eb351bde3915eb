"""The room headwise.backward."""
