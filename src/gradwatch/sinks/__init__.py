"""Where records go: the event log, the run's own loggers, the console, memory. No sink knows another."""
