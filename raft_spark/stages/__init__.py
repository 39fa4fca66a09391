"""The stages of the pipeline, one module each, and what runs them."""
