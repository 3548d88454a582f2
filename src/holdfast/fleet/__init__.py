"""Many machines, one log: workers that advance the runs of a store on PostgreSQL, and take over from those that die.

Rules
1. What lets a run go on is read from its log. A job says only that somebody should look; one too many does no harm.
2. Claims and epochs decide who advances a run. Jobs, locks of jobs and signs of life decide how soon, and nothing else.
"""
