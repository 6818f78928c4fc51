"""The documents that cross a border: job, run spec, capacity, progress. Imports pydantic only."""
