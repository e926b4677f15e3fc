"""Bare metal: machines that a Cobbler provisions, reserved, installed, watched and given back."""
