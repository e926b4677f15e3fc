"""The command line: thin; parses, calls, prints. One file a command group."""
