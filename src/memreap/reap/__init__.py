"""One victim: identify, boost, hold, kill, reap, verify.

What is known before the kill (survey, victim), what is done (boost, hold, reaper), and how it is
seen that the memory came back (release, execution). Deciding who must die happens elsewhere.
"""
