"""Read articles: files, the Hugging Face hub, or built-in articles."""
