"""One wire format per model family: a row of data, and the functions that read it."""
