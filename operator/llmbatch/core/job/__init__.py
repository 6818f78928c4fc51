"""What a job needs next, decided from one snapshot of it."""
