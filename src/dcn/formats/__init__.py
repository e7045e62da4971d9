"""One hostile-safe reader and writer per file format; `dcn.data` and `dcn.metrics` both use them.

Nothing here knows datasets or metrics. Readers report problems through a `dcn.formats.problems.Report`: training and
evaluation stop at the first one, ``dcn data check`` collects all. So the three can never disagree about a file.
"""
