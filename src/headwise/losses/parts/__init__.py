"""What losses are made of: what they ask of their inputs, one fused sum with its closed form, and the k hardest."""
