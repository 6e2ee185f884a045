"""Tasks: what is noised, what is predicted, which loss."""
