"""Claims about targets, tried on the runtime that is installed: probes of kernels, and measured costs."""
