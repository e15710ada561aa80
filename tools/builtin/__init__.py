"""The few tools we ship: offline, small, each a `FunctionToolset`."""
