"""What the machine offers: processors, devices, compilers, threads, progress."""
