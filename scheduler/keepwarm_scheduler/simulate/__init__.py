"""``keepwarm simulate``: a trace of invocations replayed on the scheduler's real core, in virtual time.

``traces`` reads what happened, ``cluster_model`` obeys the core's commands as nodes would, ``engine`` lets time pass,
``report`` counts and shows. Nothing here is used by a running scheduler, and nothing here starts a process.
"""
