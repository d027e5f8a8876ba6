"""The methods: their maths on the clients, their aggregation on the server, and the metrics."""
