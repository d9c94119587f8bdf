"""Raw samples: images, instances, dialogues. No tensors, no tokenizer."""
