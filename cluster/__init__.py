"""What people run, and what schedules: train, prepare, evaluate, plan, supervise."""
