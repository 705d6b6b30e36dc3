"""What a user calls, in Python and on the command line."""
