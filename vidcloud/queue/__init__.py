"""Claims, heartbeats, epochs and publishing on a shared directory. Knows nothing of video."""
