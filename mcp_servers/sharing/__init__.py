"""One engine process for all hosts of a user: where it is, and the relay that leads to it."""
