"""Write the dataset in training formats, with a card."""
