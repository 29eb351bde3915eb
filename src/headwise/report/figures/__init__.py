"""Figures: plain frozen tables that draw themselves on a page or into a file."""
