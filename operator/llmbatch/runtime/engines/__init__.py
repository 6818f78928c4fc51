"""Engines: what turns a stage's requests into outputs."""
