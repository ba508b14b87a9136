"""The demo: three real trainings and one real bug under the monitor. Only ``gradwatch.cli`` imports it."""
