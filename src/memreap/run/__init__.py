"""``memreap run``: a command under a memory budget, without root and without cgroups.

The command's whole process tree is one domain. This room ties decide/ to linux/ and reap/.
"""
