"""What Flower imports. Each module first imports `fedperfit`, so that `configs` and the others are fedperfit's own."""
