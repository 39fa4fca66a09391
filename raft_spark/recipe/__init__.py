"""RAFT itself, as pure functions: which passages a row shows, the prompts, and the checks of answers."""
