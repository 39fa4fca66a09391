"""Score the answers of students and summarize an evaluation."""
