"""English nouns: number, head words, synonyms. Knows no images and no tensors."""
