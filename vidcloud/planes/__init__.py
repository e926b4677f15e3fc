"""How pictures travel: one file a plane."""
