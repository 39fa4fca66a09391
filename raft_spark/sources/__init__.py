"""Read articles from files, from the Hugging Face hub, or from the built-in generator."""
