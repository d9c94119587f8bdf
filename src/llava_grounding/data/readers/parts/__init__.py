"""What the readers of several formats share. Knows no format."""
