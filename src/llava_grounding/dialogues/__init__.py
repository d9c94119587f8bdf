"""From what is known of an image to a dialogue about it: which questions, in which words, pointing how."""
