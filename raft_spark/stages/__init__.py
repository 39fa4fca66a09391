"""The stages of the pipeline, one module each, with the registry and the functions that run them."""
