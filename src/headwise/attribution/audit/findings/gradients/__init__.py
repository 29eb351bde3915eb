"""On gradients at outputs and parameters: where they are missing, wrong, or of one loss alone."""
