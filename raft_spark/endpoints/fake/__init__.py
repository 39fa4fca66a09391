"""A model server for tests: it speaks every protocol and fails as asked."""
