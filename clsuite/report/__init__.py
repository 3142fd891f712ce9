"""What people see: tables, progress, curves. Imported by the command line when a command needs it."""
