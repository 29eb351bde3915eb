"""What sets weights from the books, and what would have set them better."""
