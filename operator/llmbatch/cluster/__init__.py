"""Every call to the API server, to Ray's Jobs API and to the runtime: reading a Snapshot, carrying out a Plan."""
