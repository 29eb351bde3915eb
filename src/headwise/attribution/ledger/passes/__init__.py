"""Backward passes under way: which one, what arrives at leaves, and losses that are booked inside of a network."""
