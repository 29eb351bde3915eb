"""Held-out measures: once for boxes, words, objects told apart pixel by pixel, and once how they are gone about."""

from headwise.evaluation.boxes import evaluate_boxes
from headwise.evaluation.held_out import HeldOut
from headwise.evaluation.instances import evaluate_instances
from headwise.evaluation.text import evaluate_text

__all__ = ["HeldOut", "evaluate_boxes", "evaluate_instances", "evaluate_text"]
