"""Losses beyond detection and segmentation: of adversaries, actors, experts' routers, towers and molecules."""
