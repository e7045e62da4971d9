"""The command line: one file per verb, which parses arguments and prints results."""
