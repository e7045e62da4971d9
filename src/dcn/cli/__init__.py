"""The command line: one file per verb, and the one place where the parts meet (:mod:`dcn.cli.assemble`)."""
