"""LaMP users: the tasks, the files people have, synthetic users, and the per-user table on disk."""
