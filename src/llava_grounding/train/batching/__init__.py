"""What a step learns from: sources by weight, samples as tensors, batches made ahead."""
