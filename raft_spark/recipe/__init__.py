"""The RAFT recipe as pure functions: draws of passages, prompts, checks of answers, label leakage."""
