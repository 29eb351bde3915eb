"""What is declared: terms, the paths and masks that they name, what divides them, what they weigh."""
