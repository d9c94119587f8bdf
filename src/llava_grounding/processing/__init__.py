"""The processor: pixels and words to tensors (encode), tensors to a GroundedAnswer (decode)."""
