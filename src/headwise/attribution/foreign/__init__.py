"""The books of code that is not ours: each backward pass is taken apart beside the losses that were returned."""
