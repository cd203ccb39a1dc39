"""What people write down: sizes, addresses, the TOML file; and what this machine says about its memory."""
