"""What people and scripts are told of a guard: incidents, one incident, the present.

Only readers live here: of the database and of the guard's socket. Each command returns its exit
code.
"""
