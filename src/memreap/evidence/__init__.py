"""Reads the running kernel's tracepoints, and says what reaper and exit did to each other."""
