"""Training: matching, losses, stages. Never imported by inference."""
