"""The running kernel, and nothing above it.

The only room that makes system calls or reads kernel files. It decides nothing, and imports no
other room of this project.
"""
