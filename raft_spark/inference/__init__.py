"""Ask a model many requests under limits that hold for the whole cluster, and store every answer."""
