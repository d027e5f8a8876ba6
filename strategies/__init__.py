"""What a method is: its maths on the clients, its aggregation on the server, and how both are judged."""
