"""Model architectures, written over `runtime.kernels` operators alone."""
