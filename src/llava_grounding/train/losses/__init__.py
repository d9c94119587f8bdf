"""What a step is judged by: matching, the losses of each task, and their sum."""
