"""Exact terms x parameters, its sampler, and what a step does to each loss."""
