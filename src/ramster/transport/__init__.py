"""How control messages travel: JSON lines over a Unix socket. Pages never come this way."""
