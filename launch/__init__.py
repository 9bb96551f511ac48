"""Launchers: scripts, which import each other."""
