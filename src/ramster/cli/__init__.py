"""The command line: one file a verb. Exit codes: 0 done, 1 failed, 2 bad usage; every error is one line on standard error."""
