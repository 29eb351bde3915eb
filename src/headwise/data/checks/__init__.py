"""What is broken, cannot be meant, or stands in both splits: found before anything is trained on it."""
