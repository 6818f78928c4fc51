"""Input readers: listing files, and reading a split as shards of rows."""
