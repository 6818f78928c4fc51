"""The operator's process: kopf's watches, one loop a job, metrics and probes. No rule about jobs is in here."""
