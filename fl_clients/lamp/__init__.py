"""LaMP users: the tasks, the supported file layouts, synthetic users, and the user table on disk."""
