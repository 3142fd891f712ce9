"""Engines that run cells, each in a process of its own."""
