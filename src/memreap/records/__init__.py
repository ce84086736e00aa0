"""What is written down of incidents, where, and how it is read again.

Every record may be slow or broken, and knows nothing of the others. The scribe keeps them.
"""
