"""``python -m vidcloud``."""

from vidcloud.cli.main import main

main()
