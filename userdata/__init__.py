"""What a booted instance runs: the boot hook and the role scripts."""
