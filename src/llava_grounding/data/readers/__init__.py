"""One file per published format, and what they share: entries checked, counted, located. Gives records."""
