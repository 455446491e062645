"""``septet bench``: how fast, against whom, how close to the machine's limit, and how exact.

:mod:`septet.bench.rows` says what a row is, the ``*_rows`` modules list them,
:mod:`septet.bench.runner` measures them, :mod:`septet.bench.records` is the result,
:mod:`septet.bench.report` and :mod:`septet.bench.plot` show it.
"""
