"""What quantizing costs in accuracy and saves in bytes: small models trained here, and real ones.

Why it exists: "75 % smaller at 98 % of the accuracy" can only be answered with models that have
learned something. `python -m benchmarks.accuracy` measures; what it has trained and measured is
kept in the user's cache, so a run that was stopped goes on where it was. Importing this package
and its `bars` needs no runtime: the performance page is made from results and bars alone.
"""
