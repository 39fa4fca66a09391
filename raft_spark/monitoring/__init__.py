"""Report what a run does: progress, pages, metrics, lineage."""
