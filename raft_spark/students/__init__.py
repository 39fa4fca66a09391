"""Train a student model on the dataset and host it."""
