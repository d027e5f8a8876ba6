"""Cold start: how many collective users it takes to serve newcomers well."""
