"""Where data, models, metrics and the engine meet: training, evaluation and prediction of both tasks.

Public as :func:`dcn.load`, :func:`dcn.train` and :func:`dcn.evaluate`; the command line calls the same functions.
"""

from __future__ import annotations
