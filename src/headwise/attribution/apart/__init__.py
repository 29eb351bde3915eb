"""Any scalar taken apart: its summands, their factors, their names, and what they reach."""
