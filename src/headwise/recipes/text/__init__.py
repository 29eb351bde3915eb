"""Text: TextSnake."""
