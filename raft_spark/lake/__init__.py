"""Versioned tables on disk or S3: files, versions, the current version, Spark sessions, Iceberg."""
