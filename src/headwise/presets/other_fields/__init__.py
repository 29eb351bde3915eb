"""Systems beyond detection and segmentation: language models, reinforcement learning, molecules, physics, retrieval."""
