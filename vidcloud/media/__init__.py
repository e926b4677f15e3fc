"""Video files: probe, decode, convert, encode, mux. Knows nothing of jobs or queues."""
