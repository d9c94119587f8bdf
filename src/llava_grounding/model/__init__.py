"""The model: tensors in, tensors out. Knows no files, no PIL, no tokenizer, no HTTP, no data set."""
